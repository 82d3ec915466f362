/* read.c: open a .fly file that lies in flash, list its tensors, decode one into a buffer.
 *
 * model.h comes from `python embed.py model.fly`. Nothing is allocated: the three arrays below are
 * all the memory that is used beside the stack, and `make list` prints how large they must be.
 */
#include <stdio.h>

#include "flyweight.h"
#include "model.h" /* const uint8_t model[] */

static uint8_t index_memory[INDEX_BYTES];   /* stays in use while the file is open */
static uint64_t workspace[WORKSPACE_BYTES / 8 + 1]; /* only while a tensor is decoded */
static float weights[LARGEST_TENSOR];
static fly_file file;

int main(void) {
    fly_status status =
        fly_open(&file, model, sizeof model, NULL, index_memory, sizeof index_memory);
    fly_tensor tensor;
    uint32_t place;
    unsigned axis;
    for (place = 0; status == FLY_OK && place < file.header.tensors; place++) {
        status = fly_tensor_at(&file, place, &tensor);
        printf("%-28s %s (", fly_header_name(&file.header, place), fly_dtype_name(tensor.dtype));
        for (axis = 0; axis < tensor.rank; axis++) {
            printf("%s%lu", axis == 0 ? "" : ", ", (unsigned long)tensor.shape[axis]);
        }
        printf(")\n");
    }
    if (status == FLY_OK) {
        status = fly_find_tensor(&file, TENSOR, &tensor);
    }
    if (status == FLY_OK && tensor.dtype == FLY_FLOAT32) {
        status = fly_check_tensor(&file, &tensor); /* against its checksum: once is enough */
        if (status == FLY_OK) {
            status = fly_decode_values(&file, &tensor, weights, sizeof weights, workspace,
                                       sizeof workspace);
        }
    }
    if (status != FLY_OK) {
        printf("refused: status %d\n", (int)status);
        return 1;
    }
    printf("%s begins with %g %g %g\n", TENSOR, weights[0], weights[1], weights[2]);
    return 0;
}
