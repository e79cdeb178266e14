/* See kernels.h. Compiled with KERNELS naming the table, and the instructions that it may use. */
#include "kernels.h"

#include <float.h>
#include <math.h>
#include <string.h>

#if defined(USE_AVX512) || defined(USE_AVX2)
#include <immintrin.h>
#endif

#ifdef USE_AVX2
enum { LEVELS = 63 }; /* so that the sum of two products fits 16 bits */
#else
enum { LEVELS = 127 };
#endif
enum { SHIFT = LEVELS + 1, BLOCK = 32, GROUP = 8, MANY = 256, AHEAD = 2, MAX_HALF = MAX_DIMS / 2, EXACT = -1 };

#define NOWHERE -1e19f
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* In this order: each builds on those before. */
#include "products.h"

#include "points.h"

#include "coreset.h"
#include "nearest.h"

const Kernels KERNELS = {LEVELS, encode, sketch, pack, nearest, distances, cells, first, behind, refresh, play};
