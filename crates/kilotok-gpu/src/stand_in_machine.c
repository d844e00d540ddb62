// Runs programs on the host: what device_tests of the machine talk to. Comes behind program.h (its
// text) and stand_in_device.c.
//
// Ops: kind 1 adds payload[1] to the word at payload[0]; an op that decides tells one round of run 0
// and ends it when nothing remains. Kind 97 makes the kernel fail, 98 reports an error, 99 never
// comes back.
#include <pthread.h>
#include <time.h>
#include <unistd.h>

static pthread_t thread_;
static volatile int is_running_;

static int machine_kernel(const char* name) {
  if (!strcmp(name, "kilotok_persistent")) return 1;
  if (!strcmp(name, "kilotok_persistent_traced")) return 3;
  return strcmp(name, "kilotok_graph_op") ? 0 : 2;
}
static int machine_is_busy(void) { return is_running_; }
static void machine_wait(void) {
  while (is_running_) usleep(100);
}

static volatile KilotokMailbox* box_of(const KilotokMachine* m) {
  return (volatile KilotokMailbox*)m->mailbox;
}

// Whether the kernel may go on.
static int run_op(const KilotokMachine* m, const KilotokOp* op) {
  KilotokCommand* command = (KilotokCommand*)m->command;
  volatile KilotokMailbox* box = box_of(m);
  if (op->flags & command->skip) return 1;
  if (op->kind == 97 || op->kind == 98 || op->kind == 99) {
    if (op->kind == 98) {
      box->waiting[0] = 7, box->waiting[1] = 3;
      box->error = KILOTOK_ERROR_TIMEOUT;
    }
    if (op->kind == 99) usleep(2500000);
    pending_ = LAUNCH_FAILED;
    return 0;
  }
  if (op->kind == 1) *(uint64_t*)op->payload[0] += op->payload[1];
  if (op->flags & KILOTOK_FLAG_DECIDES) {
    KilotokRun* run = command->run;
    KilotokRound round = {0};
    round.emitted = 1;
    round.tokens[0] = ++run->anchor;
    run->position++, run->remaining--;
    round.ended = run->ended = run->remaining ? 0 : 2;
    command->over = run->ended || box->stop;
    box->rounds[command->written++ % KILOTOK_ROUND_RING] = round;
    __sync_synchronize();
    box->num_rounds = command->written;
  }
  return 1;
}

// As the traced build does: block b arrives b cycles after entering, and passes at 200.
static void stamp(const KilotokMachine* m, uint32_t op, uint32_t launch, uint32_t command) {
  KilotokTraceRecord* records = (KilotokTraceRecord*)m->trace;
  uint32_t* counters = (uint32_t*)(records + (uint64_t)m->num_blocks * m->trace_records);
  for (uint32_t b = 0; b < m->num_blocks; b++) {
    uint32_t number = ++counters[b];
    KilotokTraceRecord* to = records + b * m->trace_records + (number - 1) % m->trace_records;
    to->number = number, to->op = op, to->launch = launch, to->command = command, to->sm = b;
    to->rows = 1, to->sequences = 1;
    to->nanoseconds = 500ull * number, to->entered = 1000ull * number;
    to->arrived = to->entered + b, to->passed = to->entered + 200;
  }
}

static void* resident(void* args) {
  KilotokMachine m = *(KilotokMachine*)args;
  free(args);
  volatile KilotokMailbox* box = box_of(&m);
  KilotokCommand* command = (KilotokCommand*)m.command;
  uint32_t number = m.op;
  for (;;) {
    uint32_t idle_us = 0;
    while (box->doorbell == number && idle_us < m.idle_ms * 1000) {
      usleep(50);
      idle_us += 50;
      box->heartbeat++;
    }
    __sync_synchronize();
    int has_command = box->doorbell != number;
    if (has_command) *command = *(KilotokCommand*)&box->command;
    if (!has_command || command->rounds == 0) {
      // A bell that rings now is taken for an answer to it.
      if (!has_command) usleep(300);
      if (box->doorbell == number + 1) box->finished = number + 1;
      box->parked = 1;
      break;
    }
    for (uint32_t round = 0; round < command->rounds && !command->over; round++) {
      for (uint32_t i = 0; i < command->num_ops; i++) {
        if (!run_op(&m, (KilotokOp*)m.ops + command->first_op + i)) {
          is_running_ = 0;
          return 0;
        }
        if (m.trace) stamp(&m, command->first_op + i, m.op, number + 1);
      }
      box->heartbeat++;
    }
    __sync_synchronize();
    box->finished = ++number;
  }
  is_running_ = 0;
  return 0;
}

static int machine_launch(int kernel, const struct Config* c, void** params) {
  const KilotokMachine* m = params[0];
  NEED(c->grid[0] == 132 && c->grid[1] == 1 && c->block[0] == KILOTOK_BLOCK_THREADS);
  NEED(c->shared_bytes == KILOTOK_SHARED_BYTES && m->num_blocks == 132);
  if (pending_) return LAUNCH_FAILED;
  if (kernel == 2) {
    NEED(!is_running_);
    run_op(m, (KilotokOp*)m->ops + m->op);
    return 0;
  }
  // Only the traced build traces and delays.
  NEED(kernel == 3 || (!m->trace && !m->flags));
  NEED(c->num_attributes == 1 && c->attributes[0].id == 2 && !is_running_);
  for (int i = 0; i < 32; i++) NEED(!((uint32_t*)m->barrier)[i]);
  ((uint32_t*)m->barrier)[0] = 1;
  KilotokMachine* args = malloc(sizeof *args);
  *args = *m;
  is_running_ = 1;
  NEED(!pthread_create(&thread_, 0, resident, args));
  pthread_detach(thread_);
  return 0;
}
