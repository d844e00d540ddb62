// Talks to the server. Every address is relative, so that the router can be mounted anywhere.

/** An answer that is no success, with the server's own words. */
export class ApiError extends Error {}

async function check(reply) {
  if (reply.ok) return reply;
  const body = await reply.json().catch(() => null);
  const wait = reply.headers.get("retry-after");
  const again = wait ? ` Try again in ${wait} s.` : "";
  throw new ApiError((body?.error?.message ?? `The server answered ${reply.status}.`) + again);
}

/** What the server and its engine are doing. */
export async function status() {
  return (await check(await fetch("status", { cache: "no-store" }))).json();
}

/** The chunks of a streamed chat reply. */
export async function* chat(request, signal) {
  const reply = await check(await fetch("v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      ...request,
      stream: true,
      stream_options: { include_usage: true, continuous_usage_stats: true },
    }),
    signal,
  }));
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  let whole = false;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const frames = (held + value).split("\n\n");
    held = frames.pop();
    for (const frame of frames) {
      if (!frame.startsWith("data: ")) continue;
      if (frame === "data: [DONE]") {
        whole = true;
        continue;
      }
      const chunk = JSON.parse(frame.slice("data: ".length));
      if (chunk.error) throw new ApiError(chunk.error.message);
      yield chunk;
    }
  }
  if (!whole) throw new ApiError("The connection ended before the reply did.");
}
