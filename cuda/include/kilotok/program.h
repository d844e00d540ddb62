// The program as the device reads it: op records, the rows of a pass, and what host and device tell
// each other between passes.
//
// A *pass* takes at most KILOTOK_ROWS rows through a stretch of ops. Activations have a place for
// every row; what stands in places past the number of rows is garbage that nobody reads. An op
// writes buffers that only later ops read: between two ops lies a grid barrier (persistent mode) or
// a kernel boundary (graph mode).
//
// Rows of activations (x, hidden) are padded to a multiple of 256 elements and start at a multiple
// of 16 bytes; what stands past K is finite (zeros at the start) and meets weights of zero.
//
// Weights of the ops that stream are *steps*: 32 rows x some of K in the order in which a warp
// multiplies them (layout/*.cuh), all steps of 32 rows (a *tile*) one after the other. Sums over K
// are made per *chunk* of steps, then chunk by chunk: `chunk_steps` is a function of K and format
// alone, so that the association never depends on rows, warps or blocks.
#pragma once

#include "kilotok/abi.h"

#define KILOTOK_ROWS 8
#define KILOTOK_PAIRS 64

// KilotokOp.kind
enum {
  KILOTOK_OP_EMBED = 1,
  KILOTOK_OP_ROPE = 2,
  KILOTOK_OP_LINEAR = 3,
  KILOTOK_OP_ATTENTION = 4,
  KILOTOK_OP_ROUTER = 5,
  KILOTOK_OP_MOE_UP = 6,
  KILOTOK_OP_MOE_DOWN = 7,
  KILOTOK_OP_DRAFT_ATTENTION = 8,
  KILOTOK_OP_DRAFT_CONTEXT = 9,
  KILOTOK_OP_CHOOSE = 10,
  KILOTOK_OP_LAY_OUT = 11,
  KILOTOK_OP_ACCEPT = 12,
  KILOTOK_OP_DRAFT_CHOOSE = 13,
  KILOTOK_OP_ADJUST = 14,
  KILOTOK_OP_FILTER = 15,
};

// KilotokOp.flags: ops with a flag that the command skips are passed over.
enum {
  KILOTOK_FLAG_LOGITS = 1,    // only where logits are wanted
  KILOTOK_FLAG_DRAFT = 2,     // only where there are drafts
  KILOTOK_FLAG_DECIDES = 4,   // may end the run: nothing after it is streamed before it has ended
  KILOTOK_FLAG_NEW_PASS = 8,  // changes the rows of the pass
  KILOTOK_FLAG_RULES = 16,    // only where a run has rules
};

// KilotokMatrix.format
enum { KILOTOK_BF16 = 0, KILOTOK_FP8 = 1, KILOTOK_MXFP4 = 2, KILOTOK_F32 = 3 };
// KilotokLinear.store
enum { KILOTOK_STORE_F32 = 0, KILOTOK_STORE_RESIDUAL = 1, KILOTOK_STORE_SWIGLU = 2 };
// KilotokActivation.kind
enum { KILOTOK_SILU = 0, KILOTOK_CLAMPED_SWIGLU = 1 };
// KilotokMoeUp.router
enum {
  KILOTOK_ROUTER_SIGMOID = 0,
  KILOTOK_ROUTER_SIGMOID_NORMALIZED = 1,
  KILOTOK_ROUTER_SOFTMAX = 2
};
// KilotokRun.rules
enum {
  KILOTOK_RULE_BIAS = 1,       // the slot's biases
  KILOTOK_RULE_PENALTIES = 2,  // repetition, presence, frequency, by the slot's counts
  KILOTOK_RULE_FILTERS = 4,    // top_k, top_p, min_p; never of a greedy run
};
// Counts of tokens: how often a token was generated, and this bit where the prompt has it.
#define KILOTOK_IN_PROMPT 0x80000000u
// KilotokRow.token of a drafter row that holds the mask embedding
#define KILOTOK_MASK_TOKEN 0xFFFFFFFFu

// A matrix in steps; for experts, `expert_bytes` from one expert's steps to the next one's.
typedef struct KilotokMatrix {
  uint64_t steps;
  uint64_t expert_bytes;
  uint32_t format;
  uint32_t tiles;           // of 32 rows; the last one is filled up with zeros
  uint32_t steps_per_tile;  // K / 64, FP8: K / 128, rounded up
  uint32_t chunk_steps;     // of 256 * ceil(K / 6144) of K: at most 24 chunks
} KilotokMatrix;

// RMSNorm of an input whose rows are x * weight, not yet divided by their root mean square: that
// factor is 1 / sqrt(sum of `parts` partial sums / width + eps) and is applied to the outputs.
typedef struct KilotokNorm {
  uint64_t squares;  // [parts][KILOTOK_ROWS] f32; 0: no norm
  uint32_t parts;
  float width;
  float eps;
  uint32_t reserved;
} KilotokNorm;

// A residual row and what the next norm needs of it.
typedef struct KilotokResidual {
  uint64_t residual;     // [KILOTOK_ROWS][stride] f32, read (unless fresh) and written
  uint64_t norm_weight;  // [stride] f32 of the next norm, zeros past its end
  uint64_t x;            // [KILOTOK_ROWS][x_stride] bf16: residual * norm_weight
  uint64_t squares;      // [tiles][KILOTOK_ROWS] f32: sums of squares of 32 elements each
  uint64_t tap;          // [KILOTOK_ROWS][tap_stride] bf16 copy of the residual; 0: none
  uint32_t stride;
  uint32_t x_stride;
  uint32_t tap_stride;
  uint32_t fresh;  // 1: the old residual counts as zero
} KilotokResidual;

typedef struct KilotokActivation {
  uint32_t kind;
  float alpha;
  float limit;
  uint32_t reserved;
} KilotokActivation;

// residual = row of the embedding.
typedef struct KilotokEmbed {
  uint64_t embedding;  // [vocab][width] bf16
  uint64_t mask;       // [width] f32, for rows with KILOTOK_MASK_TOKEN
  KilotokResidual to;
  uint32_t width;
  uint32_t tiles;
} KilotokEmbed;

// Cosines and sines of the rows' positions, computed in f64.
typedef struct KilotokRope {
  uint64_t frequencies;  // [pairs] f64
  uint64_t rotations;    // [KILOTOK_ROWS][pairs] float2 (cos, sin)
  uint32_t pairs;
  float magnitude;
} KilotokRope;

// y = W x, by `store`:
//   F32       out[row][i] = y + bias
//   RESIDUAL  residual += y + bias
//   SWIGLU    out[row][16 tile + i] = activation(gate, up): a tile is 16 gate rows above 16 up rows
typedef struct KilotokLinear {
  KilotokMatrix weights;
  KilotokNorm norm;
  KilotokResidual to;  // RESIDUAL
  KilotokActivation activation;
  uint64_t x;     // [KILOTOK_ROWS][x_stride] bf16, finite from K on
  uint64_t out;   // F32: [KILOTOK_ROWS][out_stride] f32; SWIGLU: bf16
  uint64_t bias;  // [tiles * 32] f32 in the order of the tiles' rows; 0: none
  uint32_t x_stride;
  uint32_t out_stride;
  uint32_t out_width;  // outputs past it are not written
  uint32_t store;
} KilotokLinear;

// Scores of all experts, before bias and selection.
typedef struct KilotokRouter {
  uint64_t weights;  // [experts][width], row-major, bf16 or f32
  uint64_t x;        // [KILOTOK_ROWS][x_stride] bf16
  uint64_t logits;   // [KILOTOK_ROWS][experts] f32
  KilotokNorm norm;
  uint32_t x_stride;
  uint32_t experts;
  uint32_t width;  // a multiple of 8
  uint32_t format;
} KilotokRouter;

// The experts of the rows of a pass: pair p = row * top_k + rank, best first.
typedef struct KilotokRoutes {
  uint32_t expert[KILOTOK_PAIRS];
  float gate[KILOTOK_PAIRS];
} KilotokRoutes;

// Selects experts, then hidden[pair] = weight of the pair * activation(gate x, up x).
typedef struct KilotokMoeUp {
  KilotokMatrix weights;  // tiles of 16 gate rows above 16 up rows
  KilotokNorm norm;
  KilotokActivation activation;
  uint64_t x;            // [KILOTOK_ROWS][x_stride] bf16
  uint64_t hidden;       // [KILOTOK_PAIRS][hidden_stride] bf16
  uint64_t bias;         // [experts][tiles * 32] f32; 0: none
  uint64_t logits;       // [KILOTOK_ROWS][experts] f32
  uint64_t router_bias;  // [experts] f32
  uint64_t routes;       // one KilotokRoutes, written
  uint32_t x_stride;
  uint32_t hidden_stride;
  uint32_t out_width;
  uint32_t experts;
  uint32_t top_k;  // rows * top_k <= KILOTOK_PAIRS
  uint32_t router;
  float router_scale;
  uint32_t reserved;
} KilotokMoeUp;

// residual += sum over a row's experts of down hidden + weight * bias.
typedef struct KilotokMoeDown {
  KilotokMatrix weights;
  KilotokResidual to;
  uint64_t hidden;  // [KILOTOK_PAIRS][hidden_stride] bf16
  uint64_t bias;    // [experts][tiles * 32] f32; 0: none
  uint64_t routes;
  uint32_t hidden_stride;
  uint32_t top_k;
} KilotokMoeDown;

// Keys and values are attended to in *tiles* of 64 positions, aligned to absolute positions. A row
// whose tiles number more than `max_chunks` takes several at a time: it has *chunks* of
// ceil(tiles / max_chunks) tiles, a function of its position alone, and what a chunk gives is a
// partial result in `scratch`; the block that finishes last puts them together. Rows with one chunk
// (all of them where max_chunks is 1, as is right for a window of up to 256) need no such thing. A
// good max_chunks is 128 / kv_heads, at most 128. Positions are below 2^21, heads at most 128.
//
// scratch: u32 [KILOTOK_COUNTERS], zero before the first op and after every op;
//          f32 [KILOTOK_ROWS][heads][max_chunks + 1][v_dim] weighted sums of values, then
//          [ceil(v_dim / 64)][KILOTOK_ROWS][heads][max_chunks + 1] {f32, f32} maximum (of log2) and
//          sum = 4 * (KILOTOK_COUNTERS + KILOTOK_ROWS * heads * (max_chunks + 1) *
//                     (v_dim + 2 * ceil(v_dim / 64))) bytes;
//          layers may share one. 0 where max_chunks is 1.
#define KILOTOK_COUNTERS 32768
#define KILOTOK_MAX_CHUNKS 128

// Rotates queries and keys, scales values, writes keys and values into the cache at the rows'
// positions, and attends causally. Rows of one slot stand together, at consecutive positions.
// qk_dim and v_dim are multiples of 8 up to 256, pairs and qkv_stride multiples of 4. A page holds
// any number of positions; a ring at least window - 1 + KILOTOK_ROWS.
typedef struct KilotokAttention {
  uint64_t qkv;     // [KILOTOK_ROWS][qkv_stride] f32: all queries, all keys, all values
  uint64_t out;     // [KILOTOK_ROWS][out_stride] bf16: heads * v_dim; what follows is not written
  uint64_t keys;    // pages: [pages][kv_heads][positions][qk_dim] bf16; ring: slots, not pages
  uint64_t values;  // the same with v_dim
  uint64_t page_table;  // [slots][max_pages] u32; 0: a ring, position p at p % positions
  uint64_t sinks;       // [heads] f32; 0: none
  uint64_t rotations;   // [KILOTOK_ROWS][pairs] float2
  uint64_t scratch;     // partial results; see above
  uint32_t qkv_stride;
  uint32_t out_stride;
  uint32_t heads;
  uint32_t kv_heads;
  uint32_t qk_dim;
  uint32_t v_dim;
  uint32_t positions;  // of a page or of a ring
  uint32_t max_pages;
  uint32_t window;  // visible keys, the query's own included; 0: all
  uint32_t pairs;   // rotated pairs (i, i + pairs)
  float scale;      // of the scores
  float value_scale;
  uint32_t max_chunks;  // 1..KILOTOK_MAX_CHUNKS
  uint32_t reserved;
} KilotokAttention;

// Attention of a drafter block, which is the whole pass: rows see the slot's context (positions
// before the anchor, at a distance < window) and each other. Queries and keys are normed per head
// and rotated, values scaled; nothing enters the context. `dim` is a multiple of 8 up to 256.
typedef struct KilotokDraftAttention {
  uint64_t qkv;   // [KILOTOK_ROWS][qkv_stride] f32
  uint64_t out;   // [KILOTOK_ROWS][out_stride] bf16
  uint64_t keys;  // context rings, [slots][kv_heads][positions][dim] bf16
  uint64_t values;
  uint64_t block;      // [2][kv_heads][KILOTOK_ROWS][dim] bf16: the block's own keys, then values
  uint64_t q_norm;     // [dim] f32
  uint64_t k_norm;     // [dim] f32
  uint64_t sinks;      // [heads] f32; 0: none
  uint64_t rotations;  // [KILOTOK_ROWS][pairs] float2
  uint64_t scratch;    // as in KilotokAttention, with dim
  uint32_t qkv_stride;
  uint32_t out_stride;
  uint32_t heads;
  uint32_t kv_heads;
  uint32_t dim;
  uint32_t positions;
  uint32_t window;  // 0: all
  uint32_t causal;
  uint32_t pairs;
  float scale;
  float value_scale;
  float eps;
  uint32_t max_chunks;
  uint32_t reserved;
} KilotokDraftAttention;

// Keys and values of committed rows into the context rings of one drafter layer.
typedef struct KilotokDraftContext {
  uint64_t kv;  // [KILOTOK_ROWS][kv_stride] f32: all keys, all values
  uint64_t keys;
  uint64_t values;
  uint64_t k_norm;
  uint64_t rotations;
  uint32_t kv_stride;
  uint32_t kv_heads;
  uint32_t dim;
  uint32_t positions;
  uint32_t pairs;
  float value_scale;
  float eps;
  uint32_t reserved;
} KilotokDraftContext;

typedef struct KilotokChoice {
  float score;
  uint32_t token;  // 0xFFFFFFFF: none
} KilotokChoice;

// Logits of the rows whose runs have rules, in place: + bias, penalties, / temperature unless that
// is 0, as the CPU does it. Of row i of an only run the tokens of rows 1 to i count as generated,
// too: behind them a token is chosen only where they were accepted.
typedef struct KilotokAdjust {
  uint64_t logits;  // [KILOTOK_ROWS][stride] f32
  uint64_t counts;  // [slots][stride] u32
  uint64_t biases;  // [slots][stride] f32
  uint64_t peaks;   // [blocks][KILOTOK_ROWS] f32: the largest of each block's share, as in CHOOSE
  uint32_t stride;
  uint32_t vocab;
} KilotokAdjust;

// The tokens that the filters of a row's run keep, in the order of their values, on ties the lower
// token first: up to and with the one whose value and token are in `kept`.
typedef struct KilotokFilter {
  uint64_t scaled;  // [KILOTOK_ROWS][stride] f32 of ADJUST
  uint64_t peaks;
  uint64_t kept;  // [KILOTOK_ROWS] KilotokChoice, written where a run has filters
  uint32_t stride;
  uint32_t vocab;
  uint32_t blocks;
  uint32_t reserved;
} KilotokFilter;

// Choices: the best (score, token) of each row among a block's share of the vocabulary. CHOOSE
// takes temperature and seed from the row's run (greedy where there are no runs), DRAFT_CHOOSE is
// greedy. Rows whose runs have rules were adjusted before; of those with filters only what is kept
// counts. The op that needs the tokens, ACCEPT or LAY_OUT, makes one of a row's choices: there is
// nothing to wait for inside this op.
typedef struct KilotokChoose {
  uint64_t logits;  // [KILOTOK_ROWS][stride] f32
  uint64_t best;    // [blocks][KILOTOK_ROWS] KilotokChoice, written
  uint64_t kept;    // [KILOTOK_ROWS] KilotokChoice of FILTER; DRAFT_CHOOSE: 0
  uint32_t stride;
  uint32_t vocab;
} KilotokChoose;

// The rows of a round, from its runs, written to the command's pass; nothing without runs. The
// drafter's: the anchor of the only run and `rows - 1` masks. The target's: every run's anchor, and
// behind that of an only run, where the command does not skip KILOTOK_FLAG_DRAFT,
// min(drafts, rows - 1, remaining - 1) of the tokens drafted.
typedef struct KilotokLayOut {
  uint64_t best;  // of DRAFT_CHOOSE
  uint32_t is_draft;
  uint32_t rows;  // of a whole drafter block
} KilotokLayOut;

// Compares the choices of CHOOSE with the drafts, advances the runs, tells the host, and leaves in
// the pass the rows that were committed: row i of an only run is still row i. Counts what it emits
// where a run has penalties. Nothing without runs.
typedef struct KilotokAccept {
  uint64_t best;    // of CHOOSE
  uint64_t counts;  // of ADJUST
  uint32_t stride;
  uint32_t reserved;
} KilotokAccept;

typedef struct KilotokRow {
  uint32_t slot;
  uint32_t position;
  uint32_t token;
  uint32_t run;  // index of its run, in a round
} KilotokRow;

// The rows that the ops work on.
typedef struct KilotokPass {
  uint32_t rows;
  uint32_t reserved[3];
  KilotokRow row[KILOTOK_ROWS];
} KilotokPass;

// A sequence that decodes on the device, round after round.
typedef struct KilotokRun {
  uint64_t seed;
  float temperature;  // 0: greedy
  uint32_t slot;
  uint32_t position;  // of the anchor: positions in the cache
  uint32_t anchor;
  uint32_t drafts;     // verified per round at most
  uint32_t remaining;  // tokens that may still be emitted
  uint32_t num_stops;
  uint32_t ended;  // 1: stop token, 2: length
  uint32_t stops[14];
  uint32_t rules;  // KILOTOK_RULE_*
  uint32_t top_k;  // 0: all
  float top_p;
  float min_p;
  float repetition;
  float presence;
  float frequency;
  uint32_t reserved;
} KilotokRun;

// What the host asks for.
typedef struct KilotokCommand {
  uint32_t first_op;
  uint32_t num_ops;
  uint32_t rounds;    // how often the ops are run; 0: park
  uint32_t skip;      // flags of ops to pass over
  uint32_t num_runs;  // 0: the host gives `pass`; drafts need exactly one run
  uint32_t over;      // device: the run ends with this round; host: 0
  uint32_t written;   // device: entries written to the mailbox's `rounds`; host: 0
  uint32_t reserved;
  KilotokPass pass;
  KilotokRun run[KILOTOK_ROWS];
} KilotokCommand;

// What one run did in one round, for the host.
typedef struct KilotokRound {
  uint32_t run;
  uint32_t drafted;
  uint32_t emitted;
  uint32_t ended;
  uint32_t tokens[KILOTOK_ROWS];
  uint32_t accepted;  // drafted tokens among those emitted
  uint32_t reserved[3];
} KilotokRound;

#define KILOTOK_ROUND_RING 1024

// Threads of a block, and its dynamic shared memory.
#define KILOTOK_BLOCK_THREADS 512
#define KILOTOK_SHARED_BYTES 214016

// Words between host and device, in host memory that the device sees.
typedef struct KilotokMailbox {
  uint32_t doorbell;    // host: number of the newest command
  uint32_t finished;    // device: number of the newest command that is done
  uint32_t heartbeat;   // device: grows while it lives
  uint32_t error;       // device: 0, or what went wrong (KILOTOK_ERROR_*)
  uint32_t waiting[8];  // device: who waited for what when it gave up
  uint32_t num_rounds;  // device: entries written to `rounds` for this command
  uint32_t stop;        // host: end the run at the next round
  uint32_t parked;      // device: the kernel has ended, the next bell is for its successor
  uint32_t reserved;
  KilotokCommand command;
  KilotokRound rounds[KILOTOK_ROUND_RING];
} KilotokMailbox;

// KilotokMachine.flags
enum {
  KILOTOK_MACHINE_BARRIERS = 1,  // one more barrier after every op
  KILOTOK_MACHINE_DELAYS = 2,    // random delays of blocks and warps
};

enum { KILOTOK_ERROR_NONE = 0, KILOTOK_ERROR_TIMEOUT = 1, KILOTOK_ERROR_OP = 2 };

#define KILOTOK_OP_BYTES 256

typedef struct KilotokOp {
  uint32_t kind;
  uint32_t flags;
  uint64_t payload[31];  // the struct of the kind
} KilotokOp;

// Argument of both kernels that run programs.
typedef struct KilotokMachine {
  uint64_t ops;      // [n] KilotokOp
  uint64_t command;  // KilotokCommand in device memory: the current one, as it changes
  uint64_t mailbox;  // KilotokMailbox, device address of host memory
  uint64_t barrier;  // [32] u32, zeroed before the first launch
  uint32_t op;       // graph mode: which op
  uint32_t num_blocks;
  uint32_t flags;          // KILOTOK_MACHINE_*, of the traced build
  uint32_t idle_ms;        // persistent mode: parks after so long without a command
  uint64_t trace;          // traced build: records (persistent/trace.cuh); 0: none are wanted
  uint32_t trace_records;  // of each block, the newest ones; at least 1
  uint32_t delay_seed;     // of KILOTOK_MACHINE_DELAYS
} KilotokMachine;

// What one block did in one op, by the traced build. Times are cycles of the SM.
typedef struct KilotokTraceRecord {
  uint32_t number;     // of the block's records, from 1 on; 0: nothing was written
  uint32_t op;         // index of its record
  uint32_t rows;       // of the pass
  uint32_t sequences;  // with rows in it
  uint32_t context;    // positions before their first rows, all sequences together
  uint32_t experts;    // touched by the newest moe_up
  uint32_t command;    // number of the command
  uint32_t launch;     // number of the command before the kernel's first one
  uint32_t sm;         // that the block runs on
  uint32_t reserved;
  uint64_t nanoseconds;  // the global timer at `passed`
  uint64_t entered;
  uint64_t routed;   // experts were known; 0 where the op has none
  uint64_t weights;  // the first weights were there; 0 where the op has none
  uint64_t arrived;  // at the barrier
  uint64_t passed;   // the barrier
} KilotokTraceRecord;
