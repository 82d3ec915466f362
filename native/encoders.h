/* encoders.h: encoders of the streams that flyweight.h decodes. Not needed on a device.
 *
 * Like the decoders they take all memory from the caller; `..._bound` functions tell how much.
 */
#ifndef FLY_ENCODERS_H
#define FLY_ENCODERS_H

#include "flyweight.h"

#endif
