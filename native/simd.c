/* simd.c: find out, at run time, which vector instructions the processor has. */
#include "flyweight.h"

#if defined(_MSC_VER) && defined(_M_X64)
#include <intrin.h>
#elif (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#include <cpuid.h>
#endif

fly_simd fly_best_simd(void) {
#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
    /* BMI2 and LZCNT came with AVX2; a virtual machine may hide them nevertheless. */
    unsigned a, b, c = 0, d;
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") &&
                   __get_cpuid(0x80000001u, &a, &b, &c, &d) && (c & (1u << 5)) != 0
               ? FLY_AVX2
               : FLY_SCALAR;
#elif defined(_MSC_VER) && defined(_M_X64)
    int leaf[4];
    __cpuidex(leaf, 1, 0);
    /* The system must save the vector registers (OSXSAVE, AVX), and AVX2 be there. */
    if ((leaf[2] & (1 << 27)) == 0 || (leaf[2] & (1 << 28)) == 0 || (_xgetbv(0) & 6) != 6) {
        return FLY_SCALAR;
    }
    __cpuidex(leaf, 7, 0);
    return (leaf[1] & (1 << 5)) != 0 ? FLY_AVX2 : FLY_SCALAR;
#elif defined(__aarch64__) || defined(_M_ARM64)
    return FLY_NEON;
#else
    return FLY_SCALAR;
#endif
}
