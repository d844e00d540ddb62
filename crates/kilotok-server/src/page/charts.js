// Two small charts and a map of squares.

const SVG = "http://www.w3.org/2000/svg";

function node(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** A line through `values`, oldest first, from zero at the bottom; level where there is one. */
export function line(svg, values) {
  if (values.length === 1) values = [values[0], values[0]];
  const most = Math.max(1, ...values);
  const step = 100 / Math.max(1, values.length - 1);
  const points = values.map((value, i) => `${(i * step).toFixed(2)},${(38 - (36 * value) / most).toFixed(2)}`);
  svg.setAttribute("viewBox", "0 0 100 40");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.replaceChildren(
    node("line", { class: "base", x1: 0, x2: 100, y1: 39.5, y2: 39.5, "vector-effect": "non-scaling-stroke" }),
    node("polyline", { class: "line", points: points.join(" ") }),
  );
}

/** A bar per number of accepted drafts. */
export function histogram(svg, counts) {
  const [width, height, foot, head] = [300, 100, 16, 14];
  const most = Math.max(1, ...counts);
  const slot = width / Math.max(1, counts.length);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const drawn = [node("line", { class: "base", x1: 0, x2: width, y1: height - foot, y2: height - foot })];
  counts.forEach((count, accepted) => {
    const tall = ((height - foot - head) * count) / most;
    const middle = slot * (accepted + 0.5);
    const top = height - foot - tall;
    const bar = node("rect", { class: "bar", x: middle - slot * 0.36, y: top, width: slot * 0.72, height: tall, rx: 2 });
    bar.append(node("title", {}, `${accepted} accepted: ${count} rounds`));
    drawn.push(bar, node("text", { x: middle, y: height - 4 }, accepted));
    if (count > 0) drawn.push(node("text", { x: middle, y: top - 3 }, count));
  });
  svg.replaceChildren(...drawn);
}

/** Squares for `total` things of which `used` are used; a square may stand for several. */
export function squares(parent, used, total, most = 240) {
  const each = Math.max(1, Math.ceil(total / most));
  const count = Math.ceil(total / each);
  while (parent.childElementCount < count) parent.append(document.createElement("i"));
  while (parent.childElementCount > count) parent.lastElementChild.remove();
  for (let i = 0; i < count; i += 1) {
    const full = Math.min(each, total - i * each);
    const here = Math.min(full, Math.max(0, used - i * each));
    parent.children[i].className = here === 0 ? "" : here === full ? "used" : "part";
  }
  return each;
}
