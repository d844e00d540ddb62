// The right-hand side: speed, acceptance, receipt, memory.

import { histogram, line, squares } from "./charts.js";

const find = (id) => document.getElementById(id);

const WINDOW_MS = 1000;
const DRAW_EVERY_MS = 100;

/** Rates of all replies, oldest first: a fast reply is over before there are two. */
const rates = [];
const MOST_RATES = 120;

/** Follows the number of tokens of one reply and draws its rate. */
export class Speed {
  #seen = [];
  #drawn = 0;

  tokens(count) {
    const now = performance.now();
    this.#seen.push([now, count]);
    while (now - this.#seen[0][0] > WINDOW_MS) this.#seen.shift();
    const [from, before] = this.#seen[0];
    // Over less time than that, a rate is noise.
    if (now - this.#drawn < DRAW_EVERY_MS || now - from < DRAW_EVERY_MS) return;
    this.#drawn = now;
    this.#show(((count - before) * 1000) / (now - from));
  }

  /** The server's own measurement, once the reply is whole; 0 where all of it came at once. */
  finish(rate) {
    if (rate > 0) this.#show(rate);
  }

  #show(rate) {
    if (!Number.isFinite(rate)) return;
    rates.push(rate);
    if (rates.length > MOST_RATES) rates.shift();
    find("rate").textContent = rate >= 100 ? Math.round(rate) : rate.toFixed(1);
    line(find("spark"), rates);
  }
}

const accepted = [];

function row(list, name, value) {
  const [term, detail] = [document.createElement("dt"), document.createElement("dd")];
  term.textContent = name;
  detail.textContent = value;
  list.append(term, detail);
}

const ms = (value) => `${value < 10 ? value.toFixed(2) : value.toFixed(0)} ms`;

/** Shows a receipt and adds its rounds to the histogram. */
export function receipt(numbers) {
  const list = find("receipt");
  list.replaceChildren();
  row(list, "Queue", ms(numbers.queue_ms));
  row(list, "Prefill", `${ms(numbers.prefill_ms)}, ${numbers.prompt_tokens} tokens`);
  row(list, "First token", ms(numbers.ttft_ms));
  row(list, "Tokens", numbers.tokens);
  row(list, "Rounds", `${numbers.rounds}, ${numbers.speculative_rounds} with drafts`);
  if (numbers.speculative_rounds > 0) row(list, "Tokens a round, tau", numbers.tau.toFixed(2));
  if (numbers.tokens_per_s > 0) row(list, "Rate", `${numbers.tokens_per_s.toFixed(1)} tok/s`);
  if (numbers.plain_step_ms > 0) row(list, "Plain step", ms(numbers.plain_step_ms));
  if (numbers.speedup > 0) row(list, "Speed-up by drafts", `${numbers.speedup.toFixed(2)} ×`);
  if (numbers.warning) row(list, "Warning", numbers.warning);

  numbers.accepted_histogram.forEach((rounds, drafts) => {
    accepted[drafts] = (accepted[drafts] ?? 0) + rounds;
  });
  const rounds = accepted.reduce((sum, count) => sum + count, 0);
  if (rounds === 0) return;
  histogram(find("histogram"), accepted);
  const mean = accepted.reduce((sum, count, drafts) => sum + count * (drafts + 1), 0) / rounds;
  find("tau").textContent = `${rounds} rounds since this page was opened, ${mean.toFixed(2)} tokens each`;
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = bytes > 0 ? Math.min(4, Math.floor(Math.log2(bytes) / 10)) : 0;
  return `${(bytes / 1024 ** power).toFixed(power > 0 ? 1 : 0)} ${units[power]}`;
}

/** Shows what the server says of itself; `null` where it does not answer. */
export function server(report) {
  const state = report?.status ?? "unreachable";
  const badge = find("state");
  badge.textContent = state === "loading" && report.fraction != null
    ? `loading ${Math.round(report.fraction * 100)} %` : state;
  badge.className = `badge ${state === "ready" ? "good" : state === "loading" ? "" : "bad"}`;
  if (!report) return;
  find("model").textContent = report.model;
  if (!report.slots) return;
  squares(find("slots"), report.slots.used, report.slots.total);
  const waiting = report.waiting > 0 ? `, ${report.waiting} waiting` : "";
  find("slots-text").textContent = `${report.slots.used} of ${report.slots.total}${waiting}`;
  const each = squares(find("pages"), report.pages.used, report.pages.total);
  const cached = report.pages.cached > 0 ? `, ${report.pages.cached} cached` : "";
  const scale = each > 1 ? `, ${each} a square` : "";
  find("pages-text").textContent = `${report.pages.used} of ${report.pages.total}${cached}${scale}`;
  const list = find("bytes");
  list.replaceChildren();
  for (const [purpose, bytes] of Object.entries(report.memory)) {
    row(list, purpose[0].toUpperCase() + purpose.slice(1).replace(/^v cache$/, "V cache"), size(bytes));
  }
}
