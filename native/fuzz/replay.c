/* replay.c: decode files, and `count` mutations of each, the same at every run.
 *
 *     replay count file ...
 */
#include "decode.h"

static uint64_t state = 1;

/* The next random number below `limit`, by xorshift. */
static size_t below(size_t limit) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return limit == 0 ? 0 : (size_t)(state >> 11) % limit;
}

/* Change some bytes of the `size` in `data`, half of them near the start; return how many are left. */
static size_t mutate(uint8_t *data, size_t size) {
    static const uint8_t edges[] = {0, 1, 0x7F, 0x80, 0xFF};
    for (size_t change = 1 + below(3); change != 0 && size != 0; change--) {
        const size_t at = below(below(2) == 0 || size < 64 ? size : 64);
        const size_t how = below(8);
        if (how < 3) {
            data[at] ^= (uint8_t)(1u << below(8));
        } else if (how < 6) {
            data[at] = how == 3 ? (uint8_t)below(256) : edges[below(sizeof edges)];
        } else if (how == 6) {
            memmove(data + at, data + at + 1, size - at - 1);
            size--;
        } else {
            size = below(4) == 0 ? at : size - below(size < 4 ? size : 4);
        }
    }
    return size;
}

int main(int count, char **arguments) {
    const long mutations = count < 2 ? 0 : strtol(arguments[1], NULL, 10);
    size_t cases = 0;
    for (int index = 2; index < count; index++) {
        FILE *file = fopen(arguments[index], "rb");
        uint8_t *data = malloc(1 << 20), *changed = malloc(1 << 20);
        size_t size;
        if (file == NULL || data == NULL || changed == NULL) {
            fprintf(stderr, "cannot read %s\n", arguments[index]);
            return 1;
        }
        size = fread(data, 1, 1 << 20, file);
        fclose(file);
        decode_any(data, size);
        for (long number = 0; number < mutations; number++) {
            memcpy(changed, data, size);
            decode_any(changed, mutate(changed, size));
        }
        cases += (size_t)mutations + 1;
        free(data);
        free(changed);
    }
    printf("%zu cases\n", cases);
    return 0;
}
