/* crc32.c: CRC-32 as in zlib, gzip and PNG, by a table of 16 entries. */
#include "flyweight.h"

uint32_t fly_crc32(uint32_t before, const uint8_t *data, size_t length) {
    static const uint32_t table[16] = {
        0x00000000, 0x1DB71064, 0x3B6E20C8, 0x26D930AC, 0x76DC4190, 0x6B6B51F4,
        0x4DB26158, 0x5005713C, 0xEDB88320, 0xF00F9344, 0xD6D6A3E8, 0xCB61B38C,
        0x9B64C2B0, 0x86D3D2D4, 0xA00AE278, 0xBDBDF21C,
    };
    uint32_t crc = ~before;
    size_t index;
    for (index = 0; index < length; index++) {
        crc ^= data[index];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}
