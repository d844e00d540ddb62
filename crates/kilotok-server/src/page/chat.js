// The conversation.

import { chat } from "./api.js";
import { Speed, receipt } from "./numbers.js";

const find = (id) => document.getElementById(id);

const history = [];
let running = null;

function bubble(kind) {
  find("hint")?.remove();
  const message = document.createElement("div");
  message.className = `message ${kind}`;
  const text = document.createElement("div");
  text.className = "text";
  message.append(text);
  find("messages").append(message);
  return { message, text };
}

function thoughts(message) {
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  summary.textContent = "Reasoning";
  const thought = document.createElement("div");
  thought.className = "thought";
  details.append(summary, thought);
  message.prepend(details);
  return thought;
}

/** Runs `change` and stays at the end of the conversation if the reader is there. */
function keepingEnd(change) {
  const list = find("messages");
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  change();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

function foot(message, text) {
  const line = document.createElement("div");
  line.className = "foot";
  line.textContent = text;
  message.append(line);
}

function number(id, low, high) {
  const value = Number(find(id).value);
  return Number.isFinite(value) ? Math.min(high, Math.max(low, value)) : low;
}

function request() {
  return {
    messages: history,
    speculation: find("speculation").value,
    temperature: number("temperature", 0, 2),
    max_tokens: Math.round(number("max-tokens", 1, 1e6)),
  };
}

async function answer(signal) {
  const { message, text } = bubble("assistant");
  const said = { role: "assistant", content: "" };
  const speed = new Speed();
  let thought = null;
  try {
    for await (const chunk of chat(request(), signal)) {
      const delta = chunk.choices[0]?.delta ?? {};
      keepingEnd(() => {
        if (delta.reasoning) {
          thought ??= thoughts(message);
          thought.append(delta.reasoning);
          said.reasoning = (said.reasoning ?? "") + delta.reasoning;
        }
        if (delta.content) {
          text.append(delta.content);
          said.content += delta.content;
        }
      });
      if (chunk.usage) speed.tokens(chunk.usage.completion_tokens);
      const [last] = chunk.usage?.receipts ?? [];
      if (last) {
        speed.finish(last.tokens_per_s);
        receipt(last);
        const rate = last.tokens_per_s > 0 ? `, ${last.tokens_per_s.toFixed(0)} tok/s` : "";
        const tau = last.speculative_rounds > 0 ? `, tau ${last.tau.toFixed(2)}` : "";
        const first = last.ttft_ms.toFixed(last.ttft_ms < 10 ? 1 : 0);
        keepingEnd(() => foot(message, `${last.tokens} tokens${rate}, first after ${first} ms${tau}`));
      }
    }
  } catch (error) {
    if (error.name === "AbortError") {
      foot(message, "stopped");
    } else {
      message.classList.add("error");
      foot(message, error.message);
    }
  }
  // What was said stays in the conversation, also where it was cut off.
  if (said.content || said.reasoning) history.push(said);
  else history.pop();
}

async function submit() {
  if (running) {
    running.abort();
    return;
  }
  const input = find("input");
  const content = input.value.trim();
  if (!content) return;
  input.value = "";
  history.push({ role: "user", content });
  bubble("user").text.textContent = content;
  running = new AbortController();
  find("send").textContent = "Stop";
  find("clear").disabled = true;
  find("messages").scrollTop = find("messages").scrollHeight;
  await answer(running.signal);
  running = null;
  find("send").textContent = "Send";
  find("clear").disabled = false;
  input.focus();
}

/** Makes the form work. */
export function start() {
  find("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  find("input").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (!running) submit();
    }
  });
  find("clear").addEventListener("click", () => {
    history.length = 0;
    find("messages").replaceChildren();
    find("input").focus();
  });
}
