/* Products of codes and their comparison: the only part written for particular instructions. Part of kernels.c. */

/* Whether codes so far apart (squared) cannot be dismissed. A lane that holds no point has the reach NOWHERE. */
INLINE int within(int32_t apart, float together) { return (float)apart <= together * fabsf(together); }

#if defined(USE_AVX512)

INLINE void tile(const int8_t *rows, int64_t padded, const uint8_t *panels, int64_t columns, int32_t *out, int R,
                 int P) {
    __m512i sums[8][8];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int p = 0; p < P; p++) sums[r][p] = _mm512_setzero_si512();
    for (int64_t i = 0; i < padded; i += 4) {
        __m512i lanes[8];
        UNROLL for (int p = 0; p < P; p++) lanes[p] = _mm512_loadu_si512(panels + p * padded * LANES + i * LANES);
        UNROLL for (int r = 0; r < R; r++) {
            int32_t four;
            memcpy(&four, rows + r * padded + i, 4);
            __m512i same = _mm512_set1_epi32(four);
            UNROLL for (int p = 0; p < P; p++) sums[r][p] = _mm512_dpbusd_epi32(sums[r][p], lanes[p], same);
        }
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int p = 0; p < P; p++)
        _mm512_storeu_si512(out + r * columns + p * LANES, sums[r][p]);
}

INLINE uint32_t undismissed_of_panel(const int32_t *values, const int32_t *norms, int32_t shifted, const float *reaches,
                                     float own) {
    __m512i apart = _mm512_add_epi32(_mm512_loadu_si512(norms), _mm512_set1_epi32(shifted));
    apart = _mm512_sub_epi32(apart, _mm512_slli_epi32(_mm512_loadu_si512(values), 1));
    __m512 together = _mm512_add_ps(_mm512_loadu_ps(reaches), _mm512_set1_ps(own));
    return _mm512_cmp_ps_mask(_mm512_cvtepi32_ps(apart), _mm512_mul_ps(together, _mm512_abs_ps(together)), _CMP_LE_OQ);
}

#elif defined(USE_AVX2)

INLINE void tile(const int8_t *rows, int64_t padded, const uint8_t *panels, int64_t columns, int32_t *out, int R,
                 int P) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (int p = 0; p < P; p++) {
        __m256i sums[8][2];
        UNROLL for (int r = 0; r < R; r++) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
        for (int64_t i = 0; i < padded; i += 4) {
            const uint8_t *at = panels + p * padded * LANES + i * LANES;
            __m256i low = _mm256_loadu_si256((const __m256i *)at), high = _mm256_loadu_si256((const __m256i *)(at + 32));
            UNROLL for (int r = 0; r < R; r++) {
                int32_t four;
                memcpy(&four, rows + r * padded + i, 4);
                __m256i same = _mm256_set1_epi32(four);
                sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(_mm256_maddubs_epi16(low, same), ones));
                sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(_mm256_maddubs_epi16(high, same), ones));
            }
        }
        UNROLL for (int r = 0; r < R; r++) {
            _mm256_storeu_si256((__m256i *)(out + r * columns + p * LANES), sums[r][0]);
            _mm256_storeu_si256((__m256i *)(out + r * columns + p * LANES + 8), sums[r][1]);
        }
    }
}

INLINE uint32_t undismissed_of_panel(const int32_t *values, const int32_t *norms, int32_t shifted, const float *reaches,
                                     float own) {
    uint32_t mask = 0;
    for (int i = 0; i < LANES; i += 8) {
        __m256i apart = _mm256_add_epi32(_mm256_loadu_si256((const __m256i *)(norms + i)), _mm256_set1_epi32(shifted));
        apart = _mm256_sub_epi32(apart, _mm256_slli_epi32(_mm256_loadu_si256((const __m256i *)(values + i)), 1));
        __m256 together = _mm256_add_ps(_mm256_loadu_ps(reaches + i), _mm256_set1_ps(own));
        __m256 squared = _mm256_mul_ps(together, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), together));
        mask |= (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(_mm256_cvtepi32_ps(apart), squared, _CMP_LE_OQ)) << i;
    }
    return mask;
}

#else

INLINE void tile(const int8_t *rows, int64_t padded, const uint8_t *panels, int64_t columns, int32_t *out, int R,
                 int P) {
    for (int p = 0; p < P; p++)
        for (int r = 0; r < R; r++) {
            int32_t sums[LANES] = {0};
            for (int64_t i = 0; i < padded; i += 4) {
                const uint8_t *at = panels + p * padded * LANES + i * LANES;
                const int8_t *four = rows + r * padded + i;
                for (int lane = 0; lane < LANES; lane++)
                    sums[lane] += at[4 * lane] * four[0] + at[4 * lane + 1] * four[1] + at[4 * lane + 2] * four[2] +
                                  at[4 * lane + 3] * four[3];
            }
            memcpy(out + r * columns + p * LANES, sums, sizeof sums);
        }
}

INLINE uint32_t undismissed_of_panel(const int32_t *values, const int32_t *norms, int32_t shifted, const float *reaches,
                                     float own) {
    uint32_t mask = 0;
    for (int i = 0; i < LANES; i++)
        mask |= (uint32_t)within(norms[i] + shifted - 2 * values[i], reaches[i] + own) << i;
    return mask;
}

#endif

/* Shifted products of up to GROUP consecutive rows of codes with consecutive panels: out [count, 16 x panels]. */
static void products(const int8_t *rows, int count, int64_t padded, const uint8_t *panels, int64_t number,
                     int32_t *out) {
    const int64_t columns = number * LANES, size = padded * LANES;
    int64_t p = 0;
    if (count == GROUP) {
        for (; p + 2 <= number; p += 2) tile(rows, padded, panels + p * size, columns, out + p * LANES, GROUP, 2);
        if (p < number) tile(rows, padded, panels + p * size, columns, out + p * LANES, GROUP, 1);
        return;
    }
    for (int r = 0; r < count; r++) {
        const int8_t *row = rows + r * padded;
        int32_t *to = out + r * columns;
        for (p = 0; p + 8 <= number; p += 8) tile(row, padded, panels + p * size, columns, to + p * LANES, 1, 8);
        for (; p < number; p++) tile(row, padded, panels + p * size, columns, to + p * LANES, 1, 1);
    }
}

/* What must be added to a shifted product's norms: ||c||^2 and the shift taken back. */
static int32_t shifted_norm(const int8_t *code, int64_t padded, int32_t norm) {
    int32_t sum = 0;
    for (int64_t i = 0; i < padded; i++) sum += code[i];
    return norm + 2 * SHIFT * sum;
}
