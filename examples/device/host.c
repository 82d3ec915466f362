/* host.c: look at .fly files on a computer, by the same code as on a device.
 *
 *     host FILE...               print a CRC of the values of every tensor, to compare machines
 *     host -a ARCHITECTURE FILE  the same for a bare file; ARCHITECTURE holds the 8 bytes of the
 *                                digest, then names and shapes (see fly_architecture)
 *     host -e FILE               print the C header that read.c includes
 *
 * What is refused is printed with its status; 211 is a form that this reader leaves out.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "flyweight.h"

static size_t most_index, most_workspace, most_output; /* bytes that a device would need */

static void *memory(size_t size) {
    void *found = malloc(size == 0 ? 1 : size); /* no more, so that a sanitizer sees beyond it */
    if (found == NULL) {
        fprintf(stderr, "there are no %lu bytes of memory\n", (unsigned long)size);
        exit(2);
    }
    return found;
}

static uint8_t *read_file(const char *path, size_t *length) {
    FILE *stream = fopen(path, "rb");
    uint8_t *data = NULL;
    long size = -1;
    if (stream != NULL && fseek(stream, 0, SEEK_END) == 0) {
        size = ftell(stream);
        rewind(stream);
    }
    *length = size < 0 ? 0 : (size_t)size;
    data = memory(*length);
    if (size < 0 || fread(data, 1, *length, stream) != *length) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(2);
    }
    fclose(stream);
    return data;
}

/* CRC of values as they stand in files: little-endian. */
static uint32_t crc_of(uint8_t *values, size_t count, fly_dtype dtype) {
    const uint16_t one = 1;
    const size_t halves = dtype >= FLY_COMPLEX64 ? 2 : 1, item = fly_item_bytes(dtype) / halves;
    size_t place, index;
    for (place = 0; *(const uint8_t *)&one == 0 && place < count * halves; place++) {
        uint8_t *value = values + item * place;
        for (index = 0; index < item / 2; index++) {
            const uint8_t byte = value[index];
            value[index] = value[item - 1 - index];
            value[item - 1 - index] = byte;
        }
    }
    return fly_crc32(0, values, count * halves * item);
}

/* A name in ASCII without spaces or quotation marks, such as a C string can hold. */
static void print_name(fly_file *file, uint32_t place) {
    const char *name = fly_header_name(&file->header, place);
    size_t index;
    for (index = 0; index < file->header.name_bytes; index++) {
        const unsigned byte = (unsigned char)name[index];
        printf(byte > ' ' && byte < 127 && byte != '"' && byte != '\\' ? "%c" : "\\%03o", byte);
    }
}

static fly_status print_tensor(fly_file *file, uint32_t place) {
    fly_tensor tensor;
    unsigned axis;
    size_t bytes, size = 0;
    fly_status status = fly_tensor_at(file, place, &tensor);
    const fly_dtype dtype = (fly_dtype)tensor.dtype;
    printf("  ");
    print_name(file, place);
    printf(" %s ", fly_dtype_name(tensor.dtype));
    for (axis = 0; axis < tensor.rank; axis++) {
        printf("%s%llu", axis == 0 ? "" : "x", (unsigned long long)tensor.shape[axis]);
    }
    bytes = (size_t)tensor.elements * fly_item_bytes(dtype);
    status = status == FLY_OK ? fly_check_tensor(file, &tensor) : status;
    if (status == FLY_OK) {
        uint8_t *out = memory(bytes), *workspace;
        size = fly_values_workspace(file, &tensor);
        workspace = memory(size);
        status = fly_decode_values(file, &tensor, out, bytes, workspace, size);
        if (status == FLY_OK) {
            printf(" %08lx\n", (unsigned long)crc_of(out, (size_t)tensor.elements, dtype));
        }
        free(workspace);
        free(out);
    }
    if (status != FLY_OK) {
        printf(" refused %d\n", (int)status);
    }
    most_workspace = size > most_workspace ? size : most_workspace;
    most_output = bytes > most_output ? bytes : most_output;
    return status;
}

static int print_file(const char *path, const fly_architecture *architecture) {
    static fly_file file;
    size_t length, size;
    uint8_t *data = read_file(path, &length), *workspace;
    const char *slash = strrchr(path, '/');
    uint32_t place;
    int refused = 0;
    fly_status status;
    size = fly_open_workspace(data, length, architecture);
    workspace = memory(size);
    status = fly_open(&file, data, length, architecture, workspace, size);
    status = status == FLY_OK ? fly_check_file(&file) : status;
    printf("%s", slash == NULL ? path : slash + 1);
    if (status == FLY_OK) {
        printf("\n");
        most_index = file.used > most_index ? file.used : most_index;
        for (place = 0; place < file.header.tensors; place++) {
            refused |= print_tensor(&file, place) != FLY_OK;
        }
    } else {
        printf(" refused %d\n", (int)status);
    }
    free(workspace);
    free(data);
    return refused || status != FLY_OK;
}

/* A file as a C array, with the memory that read.c needs for it. */
static int embed(const char *path) {
    static fly_file file;
    fly_tensor tensor, largest;
    size_t length, size, index;
    uint8_t *data = read_file(path, &length), *workspace;
    uint32_t place;
    fly_status status;
    memset(&largest, 0, sizeof largest);
    size = fly_open_workspace(data, length, NULL);
    workspace = memory(size);
    status = fly_open(&file, data, length, NULL, workspace, size);
    for (place = 0; status == FLY_OK && place < file.header.tensors; place++) {
        status = fly_tensor_at(&file, place, &tensor);
        size = fly_values_workspace(&file, &tensor);
        most_workspace = size > most_workspace ? size : most_workspace;
        if (tensor.dtype == FLY_FLOAT32 && tensor.elements > largest.elements) {
            largest = tensor;
        }
    }
    if (status != FLY_OK || largest.elements == 0) {
        fprintf(stderr, "refused %d: not a full file with a float32 tensor\n", (int)status);
        return 1;
    }
    printf("#define INDEX_BYTES %lu\n#define WORKSPACE_BYTES %lu\n#define LARGEST_TENSOR %lu\n",
           (unsigned long)file.used, (unsigned long)most_workspace,
           (unsigned long)largest.elements);
    printf("#define TENSOR \"");
    print_name(&file, largest.place);
    printf("\"\nstatic const uint8_t model[] = {");
    for (index = 0; index < length; index++) {
        printf("%s%u,", index % 20 == 0 ? "\n" : "", data[index]);
    }
    printf("\n};\n");
    free(workspace);
    free(data);
    return 0;
}

int main(int count, char **arguments) {
    fly_architecture architecture = {NULL, 0, {0}};
    uint8_t *known = NULL;
    int first = 1, refused = 0;
    if (count == 3 && strcmp(arguments[1], "-e") == 0) {
        return embed(arguments[2]);
    }
    if (count > 3 && strcmp(arguments[1], "-a") == 0) {
        known = read_file(arguments[2], &architecture.length);
        first = 3;
        if (architecture.length < 8) {
            return 2;
        }
        memcpy(architecture.digest, known, 8);
        architecture.tensors = known + 8;
        architecture.length -= 8;
    }
    for (; first < count; first++) {
        refused |= print_file(arguments[first], known == NULL ? NULL : &architecture);
    }
    fprintf(stderr, "index %lu, workspace %lu, output %lu bytes\n", (unsigned long)most_index,
            (unsigned long)most_workspace, (unsigned long)most_output);
    free(known);
    return refused;
}
