/* The greedy selection of a coreset, a round at a time. Part of kernels.c. */

static void remember(Coreset *state, int64_t row, double value) {
    int64_t number = state->made++;
    const int8_t *code = state->codes + row * state->padded;
    state->picks[number] = row;
    state->values[number] = value;
    state->best[row] = -1.0;
    set_lane(state->panels, number, code, state->padded);
    state->pick_norms[number] = state->norms[row];
    state->pick_errors[number] = state->errors[row];
    int32_t cell = state->cell[row], place = state->sizes[cell]++;
    if (place % LINK == 0) {
        int32_t link = (int32_t)state->links++;
        if (place)
            state->next[state->tail[cell]] = link;
        else
            state->head[cell] = link;
        state->tail[cell] = link;
    }
    int64_t lane = (int64_t)state->tail[cell] * LINK + place % LINK;
    set_lane(state->cell_panels, lane, code, state->padded);
    state->cell_norms[lane] = state->norms[row];
    state->cell_errors[lane] = state->errors[row];
    state->cell_picks[lane] = (int32_t)number;
}

/* Compare a point with the picks whose shifted products are `values`; `numbers` are theirs, NULL if consecutive.
 * Returns the point's reach. A point that the codes alone show to be below the threshold gets an upper bound. */
static float meet(const Coreset *state, int64_t *spent, int64_t row, float own, int32_t *values, const int32_t *norms,
                  const float *errors, const int32_t *numbers, int64_t first, int64_t lanes, int32_t shifted,
                  double threshold) {
    int32_t left[BLOCK * LANES];
    int64_t found = undismissed(values, norms, shifted, errors, own, lanes, left);
    if (!found) return own;
    const float *point = state->points + row * state->dims;
    double *best = &state->best[row];
    int32_t early = left[0];
    for (int64_t i = 1; i < found; i++)
        if (values[left[i]] < values[early]) early = left[i];
    fetch(state->points + state->picks[numbers ? numbers[early] : first + early] * state->dims,
          4 * state->dims);
    fetch(point, 4 * state->dims);
    double most = (sqrt(values[early]) + errors[early] + state->errors[row]) * (1 + 1e-5) / state->steps;
    if (most * most < threshold && most * most < *best) {
        *best = most * most;
        state->bounded_by[row] = numbers ? numbers[early] : (int32_t)first + early;
        return own;
    }
    for (int64_t i = -1; i < found && *best >= threshold; i++) {
        int32_t lane = i < 0 ? early : left[i];
        if ((i >= 0 && lane == early) || !within(values[lane], errors[lane] + own)) continue;
        int64_t pick = state->picks[numbers ? numbers[lane] : first + lane];
        ++*spent;
        double distance = squared_distance(point, state->points + pick * state->dims, state->dims);
        if (distance >= *best) continue;
        *best = distance;
        state->bounded_by[row] = EXACT;
        own = reach(distance, state->steps, state->errors[row]);
    }
    return own;
}

/* Some rows that meet picks together. */
typedef struct {
    int32_t row[GROUP], shifted[GROUP];
    float own[GROUP];
    int count;
    int64_t spent; /* exact distances */
} Group;

static void join(const Coreset *state, Group *group, int8_t *codes, int32_t row) {
    int8_t *code = codes + group->count * state->padded;
    memcpy(code, state->codes + row * state->padded, (size_t)state->padded);
    group->shifted[group->count] = shifted_norm(code, state->padded, state->norms[row]);
    group->own[group->count] = reach(state->best[row], state->steps, state->errors[row]);
    group->row[group->count++] = row;
}

/* Let rows of one cell meet the picks of that cell: nearly always one of those is near enough. */
static void search_cell(const Coreset *state, Group *group, const int8_t *codes, double threshold) {
    int32_t values[GROUP * LINK], cell = state->cell[group->row[0]], size = state->sizes[cell], low = size;
    for (int r = 0; r < group->count; r++)
        low = state->seen[group->row[r]] < low ? state->seen[group->row[r]] : low;
    int32_t link = state->head[cell];
    for (int32_t at = 0; at < size; at += LINK, link = state->next[link]) {
        if (at + LINK <= low) continue;
        int32_t end = size - at < LINK ? size : at + LINK, lanes = (end - at + LANES - 1) / LANES * LANES;
        int64_t lane = (int64_t)link * LINK;
        products(codes, group->count, state->padded, state->cell_panels + lane * state->padded, lanes / LANES, values);
        int left = 0;
        for (int r = 0; r < group->count; r++) {
            int32_t row = group->row[r];
            if (state->best[row] < threshold) continue;
            group->own[r] = meet(state, &group->spent, row, group->own[r], values + r * lanes, state->cell_norms + lane,
                                 state->cell_errors + lane, state->cell_picks + lane, 0, lanes, group->shifted[r],
                                 threshold);
            if (state->best[row] < threshold) continue;
            state->seen[row] = end;
            left++;
        }
        if (!left) return;
    }
}

/* Make the value of a row that has met all picks exact: whatever was dismissed is farther than its bound. */
static void settle(const Coreset *state, int64_t row) {
    if (state->bounded_by[row] == EXACT) return;
    int64_t pick = state->picks[state->bounded_by[row]];
    double distance = squared_distance(state->points + row * state->dims, state->points + pick * state->dims, state->dims);
    if (distance < state->best[row]) state->best[row] = distance;
    state->bounded_by[row] = EXACT;
}

/* Let rows, which come ordered by cell, meet the picks made since, each until it falls below the threshold. Returns
 * how many exact distances that took. */
static int64_t refresh(const Coreset *state, int32_t *rows, int64_t count, double threshold) {
    int8_t codes[GROUP * state->padded];
    Group group = {.spent = 0};
    for (int64_t i = 0; i < count;) {
        group.count = 0;
        int32_t cell = state->cell[rows[i]];
        while (i < count && group.count < GROUP && state->cell[rows[i]] == cell) join(state, &group, codes, rows[i++]);
        search_cell(state, &group, codes, threshold);
    }
    int32_t values[GROUP * BLOCK * LANES];
    int64_t made = state->made, start = made, kept = 0;
    for (int64_t i = 0; i < count; i++)
        if (state->best[rows[i]] >= threshold) {
            rows[kept++] = rows[i];
            start = state->met[rows[i]] < start ? state->met[rows[i]] : start;
        }
    for (int64_t block = start / LANES * LANES; block < made; block += BLOCK * LANES) {
        int64_t end = block + BLOCK * LANES < made ? block + BLOCK * LANES : made;
        int64_t number = (end - block + LANES - 1) / LANES;
        for (int64_t i = 0; i < kept;) {
            group.count = 0;
            for (; i < kept && group.count < GROUP; i++)
                if (state->best[rows[i]] >= threshold && state->met[rows[i]] < end) join(state, &group, codes, rows[i]);
            products(codes, group.count, state->padded, state->panels + block * state->padded, number, values);
            for (int r = 0; r < group.count; r++) {
                int32_t row = group.row[r];
                meet(state, &group.spent, row, group.own[r], values + r * number * LANES, state->pick_norms + block,
                     state->pick_errors + block, NULL, block, number * LANES, group.shifted[r], threshold);
                if (state->best[row] >= threshold) state->met[row] = (int32_t)end;
            }
        }
    }
    for (int64_t i = 0; i < kept; i++)
        if (state->best[rows[i]] >= threshold) settle(state, rows[i]);
    return group.spent;
}

/* Doubles that are not negative are ordered as their bits are. */
INLINE int64_t bits_of(double value) {
    int64_t bits;
    memcpy(&bits, &value, 8);
    return bits;
}

/* The first `size` positive rows by (value descending, row ascending), as ascending rows; returns how many. Also
 * returns value and row of the first one outside, 0 and -1 if no positive value is. `keys` holds `count` values. */
static int64_t first(const double *best, int64_t count, int64_t size, int64_t *keys, int64_t *rows, double *threshold,
                     int64_t *outsider) {
    int64_t left = 0, wanted = size, level = 0, found = 0, ties = 0; /* keys left; the wanted one's place among them */
    for (int64_t i = 0; i < count; i++) {
        keys[left] = bits_of(best[i]);
        left += best[i] > 0.0;
    }
    if (left > size) {
        /* Of the keys, those that share the leading bits of the wanted one are kept: 11 bits, then 13 at a time. */
        for (int shift = 52; shift >= 0; shift -= 13) {
            int64_t counts[1 << 13] = {0}, above = 0, kept = 0, mask = (1 << 13) - 1, bin = mask;
            for (int64_t i = 0; i < left; i++) counts[keys[i] >> shift & mask]++;
            while (above + counts[bin] < wanted) above += counts[bin--];
            wanted -= above;
            for (int64_t i = 0; i < left; i++) {
                keys[kept] = keys[i];
                kept += (keys[i] >> shift & mask) == bin;
            }
            left = kept;
        }
        level = keys[0];
        ties = wanted;
    }
    int64_t tie = -1, below = 0, below_row = -1;
    for (int64_t i = 0; i < count; i++) {
        int64_t bits = bits_of(best[i]);
        if (bits <= 0) continue;
        if (bits > level || (bits == level && ties-- > 0)) {
            rows[found++] = i;
        } else if (bits == level) {
            tie = tie < 0 ? i : tie;
        } else if (bits > below) {
            below = bits;
            below_row = i;
        }
    }
    if (tie >= 0) below = level;
    memcpy(threshold, &below, 8);
    *outsider = tie >= 0 ? tie : below_row;
    return found;
}

/* Those of rows that have not met all picks, ordered by cell; returns how many, and how many meetings they miss. */
static int64_t behind(const Coreset *state, const int64_t *rows, int64_t count, int32_t *out, int64_t *missed) {
    int64_t starts[MAX_CELLS + 1] = {0};
    *missed = 0;
    for (int64_t i = 0; i < count; i++)
        if (state->met[rows[i]] < state->made) {
            starts[state->cell[rows[i]] + 1]++;
            *missed += state->made - state->met[rows[i]];
        }
    for (int64_t i = 0; i < state->cells; i++) starts[i + 1] += starts[i];
    int64_t found = starts[state->cells];
    for (int64_t i = 0; i < count; i++)
        if (state->met[rows[i]] < state->made) out[starts[state->cell[rows[i]]]++] = (int32_t)rows[i];
    return found;
}

/* The first of the largest values; compared as bits, many at a time. */
static int64_t farthest(const double *best, int64_t count) {
    int64_t largest = INT64_MIN;
    for (int64_t i = 0; i < count; i++) {
        int64_t bits = bits_of(best[i]);
        largest = bits > largest ? bits : largest;
    }
    double value;
    memcpy(&value, &largest, 8);
    for (int64_t i = 0; i < count; i++)
        if (best[i] == value) return i;
    return 0;
}

static int64_t seat(Coreset *state, int64_t count, double threshold) {
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++) {
        int32_t row = state->player_rows[i];
        if (state->player_best[i] < threshold) continue;
        state->player_rows[kept] = row;
        state->player_best[kept] = state->player_best[i];
        state->player_norms[kept] = state->norms[row];
        state->player_reaches[kept] = reach(state->player_best[i], state->steps, state->errors[row]);
        set_lane(state->player_panels, kept, state->codes + (int64_t)row * state->padded, state->padded);
        kept++;
    }
    for (int64_t i = kept; i % LANES; i++) {
        state->player_norms[i] = 0;
        state->player_reaches[i] = NOWHERE;
    }
    return kept;
}

/* Play the greedy among rows (ascending, having met all picks) while its maximum comes before the threshold's row.
 * Returns whether the selection is complete; then values[made] is the last squared radius. */
static int play(Coreset *state, const int64_t *rows, int64_t count, double threshold, int64_t outsider) {
    for (int64_t i = 0; i < count; i++) {
        state->player_rows[i] = (int32_t)rows[i];
        state->player_best[i] = state->best[rows[i]];
    }
    int64_t players = seat(state, count, threshold), alive = players;
    int complete = 0;
    while (players) {
        int64_t place = farthest(state->player_best, players), row = state->player_rows[place];
        double value = state->player_best[place];
        if (value < threshold || value <= 0.0 || (value == threshold && row > outsider)) break;
        if (state->made == state->wanted || sqrt(value) <= state->stop) {
            state->values[state->made] = value;
            complete = 1;
            break;
        }
        remember(state, row, value);
        state->player_best[place] = -1.0;
        state->player_reaches[place] = NOWHERE;
        alive--;
        const int8_t *code = state->codes + row * state->padded;
        const float *point = state->points + row * state->dims;
        int32_t shifted = shifted_norm(code, state->padded, state->norms[row]);
        int32_t values[BLOCK * LANES], lanes[BLOCK * LANES];
        for (int64_t low = 0; low < players; low += BLOCK * LANES) {
            int64_t here = players - low < BLOCK * LANES ? players - low : BLOCK * LANES;
            int64_t number = (here + LANES - 1) / LANES;
            products(code, 1, state->padded, state->player_panels + low * state->padded, number, values);
            int64_t found = undismissed(values, state->player_norms + low, shifted, state->player_reaches + low,
                                        state->errors[row], number * LANES, lanes);
            for (int64_t i = 0; i < found; i++) {
                int64_t player = low + lanes[i], other = state->player_rows[player];
                if (i + 1 < found)
                    fetch(state->points + state->player_rows[low + lanes[i + 1]] * state->dims,
                          4 * state->dims);
                double *best = &state->player_best[player];
                double distance = squared_distance(point, state->points + other * state->dims, state->dims);
                if (distance >= *best) continue;
                *best = distance;
                state->player_reaches[player] = reach(distance, state->steps, state->errors[other]);
                if (distance < threshold) {
                    /* It leaves, having met all picks up to this one; whatever comes later waits until it matters. */
                    state->best[other] = distance;
                    state->met[other] = (int32_t)state->made;
                    state->player_reaches[player] = NOWHERE;
                    alive--;
                }
            }
        }
        if (4 * alive < 3 * players && players > 4 * LANES) players = alive = seat(state, players, threshold);
    }
    for (int64_t i = 0; i < players; i++) {
        int32_t row = state->player_rows[i];
        if (state->player_best[i] < threshold) continue;
        state->best[row] = state->player_best[i];
        state->met[row] = (int32_t)state->made;
    }
    return complete;
}
