// The filter: which pairs of a query and a row may score within a range. An 8-bit product on the
// tensor cores, the test in registers, and the few that pass written in no particular order.
//
//   queries        n_queries × width, int8     codes, see src/codes.rs; width a multiple of 64 bytes
//   query_slacks   n_queries, int32
//   rows           n_rows × width, int8
//   row_slacks     n_rows, int32
//   at_least, at_most   thresholds: a pair is kept if sum + slack >= at_least, sum - slack <= at_most
//   first_row      added to the row's index on output
//   found          capacity × (query, row)
//   count          1; the pairs kept, also those for which there was no room. Zero before the launch.
//
// One block of 256 threads has a tile of 128 queries × 128 rows; blocks with the same rows follow
// each other, so that rows come from memory once and queries from the cache. Each of the 8 warps
// (2 × 4) has 64 × 32, as 4 × 4 tiles of the tensor core. Bounds: every sum below 2^27, slacks at
// most 2^28 each, so nothing overflows.

#define THREADS 256
#define TILE 128
#define WARPS_ACROSS 4
#define WARP_QUERIES 64
#define WARP_ROWS 32
#define DEPTH 64
// Bytes from one row of a tile in shared memory to the next: 16 more than it holds, so that the
// eight rows that a warp reads at once lie in different banks.
#define PITCH (DEPTH + 16)

// Copies bytes k to k + 64 of `TILE` codes, from `first` on, to shared memory; past `n` zeros.
DEVICE void load_tile(int8 *tile, const int8 *codes, uint32 first, uint32 n, uint32 width, uint32 k) {
    for (uint32 part = threadIdx.x; part < TILE * (DEPTH / 16); part += THREADS) {
        uint32 i = part / (DEPTH / 16), offset = part % (DEPTH / 16) * 16;
        int4 bytes = {0, 0, 0, 0};
        if (first + i < n)
            bytes = *(const int4 *)(codes + (uint64)(first + i) * width + k + offset);
        *(int4 *)(tile + i * PITCH + offset) = bytes;
    }
}

DEVICE uint32 four_codes(const int8 *tile, uint32 i, uint32 k) {
    return *(const uint32 *)(tile + i * PITCH + k);
}

KERNEL __launch_bounds__(THREADS) candidates(
    const int8 *queries, const int *query_slacks, uint32 n_queries, const int8 *rows,
    const int *row_slacks, uint32 n_rows, uint32 width, int at_least, int at_most,
    uint32 first_row, uint2 *found, uint64 capacity, uint64 *count) {
    __shared__ __align__(16) int8 query_tile[TILE * PITCH];
    __shared__ __align__(16) int8 row_tile[TILE * PITCH];
    uint32 tiles_of_queries = (n_queries + TILE - 1) / TILE;
    uint32 first_query_of_tile = blockIdx.x % tiles_of_queries * TILE;
    uint32 first_row_of_tile = blockIdx.x / tiles_of_queries * TILE;
    uint32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    uint32 g = lane / 4, t = lane % 4;
    uint32 warp_query = warp / WARPS_ACROSS * WARP_QUERIES;
    uint32 warp_row = warp % WARPS_ACROSS * WARP_ROWS;

    int sums[4][4][4] = {{{0}}};
    for (uint32 k = 0; k < width; k += DEPTH) {
        load_tile(query_tile, queries, first_query_of_tile, n_queries, width, k);
        load_tile(row_tile, rows, first_row_of_tile, n_rows, width, k);
        __syncthreads();
#pragma unroll
        for (uint32 half = 0; half < DEPTH; half += 32) {
            uint32 a[4][4], b[4][2];
#pragma unroll
            for (uint32 m = 0; m < 4; m++) {
#pragma unroll
                for (uint32 part = 0; part < 4; part++) {
                    uint32 i = warp_query + 16 * m + g + 8 * (part % 2);
                    a[m][part] = four_codes(query_tile, i, half + 4 * t + 16 * (part / 2));
                }
            }
#pragma unroll
            for (uint32 n = 0; n < 4; n++) {
#pragma unroll
                for (uint32 part = 0; part < 2; part++)
                    b[n][part] =
                        four_codes(row_tile, warp_row + 8 * n + g, half + 4 * t + 16 * part);
            }
#pragma unroll
            for (uint32 m = 0; m < 4; m++) {
#pragma unroll
                for (uint32 n = 0; n < 4; n++) multiply_add_tile(sums[m][n], a[m], b[n]);
            }
        }
        __syncthreads();
    }

    // This thread's sums, in order of bits: 16m + 4n + i is query 16m + g + 8(i / 2) and row
    // 8n + 2t + i % 2 of its warp.
    uint32 first_query = first_query_of_tile + warp_query + g;
    uint32 first = first_row_of_tile + warp_row + 2 * t;
    uint64 kept = 0;
#pragma unroll
    for (uint32 m = 0; m < 4; m++) {
#pragma unroll
        for (uint32 i = 0; i < 4; i++) {
            uint32 query = first_query + 16 * m + 8 * (i / 2);
            int query_slack = query < n_queries ? query_slacks[query] : 0;
#pragma unroll
            for (uint32 n = 0; n < 4; n++) {
                uint32 row = first + 8 * n + i % 2;
                if (query < n_queries && row < n_rows) {
                    int sum = sums[m][n][i], slack = query_slack + row_slacks[row];
                    if (sum + slack >= at_least && sum - slack <= at_most)
                        kept |= (uint64)1 << (16 * m + 4 * n + i);
                }
            }
        }
    }
    uint64 to = append(count, __popcll(kept));
    for (; kept != 0; kept &= kept - 1, to++) {
        uint32 bit = __ffsll(kept) - 1, m = bit / 16, n = bit / 4 % 4, i = bit % 4;
        uint2 pair;
        pair.x = first_query + 16 * m + 8 * (i / 2);
        pair.y = first_row + first + 8 * n + i % 2;
        if (to < capacity) found[to] = pair;
    }
}
