/* What the library computes. `kernels.c` is compiled once per instruction set; `library.c` selects one.
 *
 * All arrays belong to the caller. Codes are points rounded to a grid: int8, `padded` per row, zero beyond `dims`.
 * A panel holds 16 codes for multiplication, [padded / 4][16][4] bytes, shifted to be unsigned. The
 * arrays of norms and reaches have 16 entries per panel. `steps` is 1 / the step of the grid.
 *
 * A pair is dismissed if ||c_a - c_b||, which is exact, exceeds reach_a + reach_b. The proof is in
 * patchcore_plugin/kernels/quantisation.py; whatever is not dismissed is decided by `squared_distance`.
 */
#ifndef PATCHCORE_KERNELS_H
#define PATCHCORE_KERNELS_H

#include <stdint.h>

enum { LANES = 16, LINK = 4 * LANES, MAX_CELLS = 64, SKETCH = 128, MAX_DIMS = 8192 };

typedef struct {
    int64_t rows, dims, padded, sketch;
    const float *vectors;        /* [rows, dims] */
    const int8_t *codes;         /* [rows, padded] */
    const int32_t *norms;        /* [rows] */
    const float *errors;         /* [rows] */
    double steps;
    const uint8_t *panels;       /* of sketches of `sketch` values; of the codes themselves where equal to padded */
    const int32_t *panel_norms;
    const float *panel_errors;   /* NOWHERE in the lanes beyond rows */
    double panel_steps;
} Bank;

typedef struct {
    const float *vectors;        /* [count, dims] */
    const int8_t *codes;         /* [count, padded] */
    const int32_t *norms;
    const float *errors;
    const int8_t *sketches;      /* [count, sketch] */
    const int32_t *sketch_norms;
    const float *sketch_errors;
} Queries;

typedef struct {
    int64_t count, dims, padded, wanted, cells;
    const float *points;         /* [count, dims] */
    const int8_t *codes;         /* [count, padded] */
    const int32_t *norms;
    const float *errors;
    double steps;
    const int32_t *cell;         /* [count] */
    double *best;                /* squared distance to the nearest of the picks met, or a bound; -1: picked */
    int32_t *bounded_by;         /* which pick gave the bound; -1: it is exact */
    int32_t *met, *seen;         /* how many picks were met, in order; how many of the own cell */
    int64_t made;
    int64_t *picks;              /* [wanted] */
    double *values;              /* [wanted + 1]: squared distance of a pick to those before it */
    double stop;                 /* radius at which to stop; negative: never */
    uint8_t *panels;             /* of all picks, in order */
    int32_t *pick_norms;
    float *pick_errors;
    uint8_t *cell_panels;        /* of the picks of each cell: chains of links of LINK lanes */
    int32_t *cell_norms;
    float *cell_errors;
    int32_t *cell_picks;
    int32_t *next, *head, *tail, *sizes;
    int64_t links;
    uint8_t *player_panels;      /* working memory of `play`, for as many players as it is called with */
    int32_t *player_norms;
    float *player_reaches;
    double *player_best;
    int32_t *player_rows;
} Coreset;

typedef struct {
    int levels;
    void (*encode)(const float *, int64_t, int64_t, int64_t, const double *, double, int8_t *, int32_t *, float *);
    void (*sketch)(const float *, int64_t, int64_t, const double *, const float *, float *, double *);
    void (*pack)(const int8_t *, int64_t, const int64_t *, int64_t, uint8_t *);
    void (*nearest)(const Bank *, const Queries *, int64_t, int64_t, int64_t, int64_t, double *, int64_t *);
    void (*distances)(const float *, const float *, int64_t, int64_t, double *);
    void (*cells)(const int8_t *, int64_t, int64_t, const uint8_t *, const int32_t *, int64_t, int32_t *);
    int64_t (*first)(const double *, int64_t, int64_t, int64_t *, int64_t *, double *, int64_t *);
    int64_t (*behind)(const Coreset *, const int64_t *, int64_t, int32_t *, int64_t *);
    int64_t (*refresh)(const Coreset *, int32_t *, int64_t, double);
    int (*play)(Coreset *, const int64_t *, int64_t, double, int64_t);
} Kernels;

extern const Kernels kernels_portable, kernels_avx2, kernels_avx512;

#endif
