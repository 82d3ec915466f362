/* firmware.c: what `make size` links for a microcontroller: the calls of read.c, no printing. */
#include "flyweight.h"

extern const uint8_t model[];
extern uint8_t index_memory[], workspace[], weights[];
fly_file file;
fly_tensor tensor;

int main(void) {
    fly_status status = fly_open(&file, model, 100000, NULL, index_memory, 10000);
    if (status == FLY_OK) {
        status = fly_find_tensor(&file, "conv.weight", &tensor);
    }
    if (status == FLY_OK) {
        status = fly_check_tensor(&file, &tensor);
    }
    if (status == FLY_OK) {
        status = fly_decode_values(&file, &tensor, weights, 100000, workspace, 10000);
    }
    return (int)status;
}
