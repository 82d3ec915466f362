/* encoders.h: encoders of the streams that flyweight.h decodes. Not needed on a device.
 *
 * Like the decoders they take all memory from the caller; `..._bound` functions tell how much.
 */
#ifndef FLY_ENCODERS_H
#define FLY_ENCODERS_H

#include "flyweight.h"

/* How much of some bytes occurs again: see repetition.c. */
#define FLY_REPETITION_BITS 16
size_t fly_repetition_workspace(void);
void fly_repetition(const uint8_t *data, size_t length, size_t step, uint32_t *table,
                    uint64_t *selected, uint64_t *repeated);

#endif
