/* The exported functions: those of the best kernels that the processor can run. */
#include "kernels.h"

#if defined(__x86_64__) || defined(_M_X64)
#define X86 1
#endif

static const Kernels *chosen;
static int chosen_number;

/* Kernels by number: 0 portable, 1 AVX2, 2 AVX-512 with VNNI. Returns the one in use: the best up to `most`. */
int patchcore_use(int most) {
    int use = 0;
#ifdef X86
    __builtin_cpu_init();
    if (most >= 2 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        use = 2;
    else if (most >= 1 && __builtin_cpu_supports("avx2"))
        use = 1;
    chosen = use == 2 ? &kernels_avx512 : use == 1 ? &kernels_avx2 : &kernels_portable;
#else
    (void)most;
    chosen = &kernels_portable;
#endif
    return chosen_number = use;
}

int patchcore_using(void) { return chosen_number; }

int patchcore_version(void) { return 1; }

int patchcore_levels(void) { return chosen->levels; }

void patchcore_encode(const float *points, int64_t count, int64_t dims, int64_t padded, const double *centre,
                      double steps, int8_t *codes, int32_t *norms, float *errors) {
    chosen->encode(points, count, dims, padded, centre, steps, codes, norms, errors);
}

void patchcore_sketch(const float *points, int64_t count, int64_t dims, const double *centre, const float *directions,
                      float *sketches, double *wrong) {
    chosen->sketch(points, count, dims, centre, directions, sketches, wrong);
}

void patchcore_pack(const int8_t *codes, int64_t padded, const int64_t *rows, int64_t count, uint8_t *panels) {
    chosen->pack(codes, padded, rows, count, panels);
}

void patchcore_nearest(const Bank *bank, const Queries *queries, int64_t first, int64_t last, int64_t k,
                       int64_t budget, double *distance, int64_t *rows) {
    chosen->nearest(bank, queries, first, last, k, budget, distance, rows);
}

void patchcore_distances(const float *points, const float *other, int64_t count, int64_t dims, double *out) {
    chosen->distances(points, other, count, dims, out);
}

void patchcore_cells(const int8_t *codes, int64_t count, int64_t padded, const uint8_t *panels,
                     const int32_t *panel_norms, int64_t seeds, int32_t *cell) {
    chosen->cells(codes, count, padded, panels, panel_norms, seeds, cell);
}

int64_t patchcore_first(const double *best, int64_t count, int64_t size, int64_t *keys, int64_t *rows,
                        double *threshold, int64_t *outsider) {
    return chosen->first(best, count, size, keys, rows, threshold, outsider);
}

int64_t patchcore_behind(const Coreset *state, const int64_t *rows, int64_t count, int32_t *out, int64_t *missed) {
    return chosen->behind(state, rows, count, out, missed);
}

int64_t patchcore_refresh(const Coreset *state, int32_t *rows, int64_t count, double threshold) {
    return chosen->refresh(state, rows, count, threshold);
}

int patchcore_play(Coreset *state, const int64_t *rows, int64_t count, double threshold, int64_t outsider) {
    return chosen->play(state, rows, count, threshold, outsider);
}
