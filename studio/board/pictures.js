/* The pictures of an item: source and outputs beside each other, in full size, and to mark defects on. */

import { button, div, make } from "../elements/shown.js";
import { plain } from "./text.js";

/** Names of the sides that are compared. */
export const LETTERS = "ABCDEFGH";

/** Outputs stand beside imported ones, which may be real: the same for all, or nobody would be blind. */
export const MARK = "May be AI-generated";

/** `opened` is called once they were seen in full size, `marked` with the regions; `asked` makes what stands above them in
    full size. */
export function pictures(task, base, { opened, marked, asked }) {
  const address = (one) => new URL(`../${one.src}`, new URL(`${base}/`, document.baseURI)).href;
  const sources = task.inputs.filter((input) => input.type === "image").map(address);
  const outputs = task.order.map((index) => task.outputs[index]).filter((output) => output.kind === "image");
  return new Pictures(task, sources, outputs.map((output) => ({ ...output, src: address(output) })), opened, marked, asked);
}

class Pictures {
  constructor(task, sources, outputs, opened, marked, asked) {
    [this.sources, this.outputs, this.opened, this.asked] = [sources, outputs, opened, asked];
    const marks = task.kind === "rate" && outputs.length && task.rubric.defects.length;
    this.marker = marks ? make("um-mark", {
      src: outputs[0].src, width: outputs[0].width, height: outputs[0].height, alt: MARK,
      labels: JSON.stringify(task.rubric.defects), "onum-change": (event) => marked(event.detail.marks),
    }) : null;
    this.marking = make("details", { class: "ub-marking", hidden: !marks }, make("summary", {}, "Mark defects [M]"),
      ...(marks ? [this.marker] : []));
    this.dialog = make("dialog", { class: "ub-full", "aria-label": "Full size" });
    const any = sources.length || outputs.length;
    this.element = div("ub-pictures", ...this.side(task), ...(any ? [this.tools()] : []), this.marking, this.dialog);
  }

  /** Source and output, or the outputs that are compared, in one view that zooms and moves together. */
  side(task) {
    if (task.kind === "compare" && this.outputs.length === 2) {
      const source = this.sources.map((src) => figure("Source", src));
      return [...source, compare(this.outputs[0].src, this.outputs[1].src, "A", "B", "ub-alike")];
    }
    if (this.outputs.length === 1 && this.sources.length) {
      return [compare(this.sources.at(-1), this.outputs[0].src, "Source", MARK),
        ...this.sources.slice(0, -1).map((src) => figure("Source", src))];
    }
    const named = this.outputs.map((output, side) =>
      figure(this.outputs.length > 1 ? LETTERS[side] : MARK, output.src));
    const texts = task.kind === "compare" && !this.outputs.length
      ? task.order.map((index, side) => plain(LETTERS[side], task.outputs[index].text)) : [];
    return [div("ub-grid", ...this.sources.map((src) => figure("Source", src)), ...named, ...texts)];
  }

  /** Full size, and brightness and contrast of all pictures alike. */
  tools() {
    const turn = (name, words) => make("label", {}, words, make("input", {
      type: "range", min: 20, max: 300, value: 100,
      oninput: (event) => this.element.style.setProperty(`--ub-${name}`, `${event.target.value}%`),
      ondblclick: (event) => (event.target.value = 100, this.element.style.removeProperty(`--ub-${name}`)),
    }));
    return div("ub-tools", button("Full size [F]", () => this.open()), turn("brightness", "Brightness"),
      turn("contrast", "Contrast"));
  }

  show(answer) {
    this.marker?.set(answer.regions ?? []);
    if (answer.regions?.length) this.marking.open = true;
  }

  /** The next way to look at two pictures: side by side, slider, difference. */
  turn() {
    const ways = [...this.element.querySelectorAll("um-compare .um-segments input")];
    ways[(ways.findIndex((way) => way.checked) + 1) % ways.length]?.click();
  }

  /** Zooms the two pictures that lie side by side; by 0 back to the whole. */
  zoom(factor) {
    this.element.querySelector("um-compare")?.zoomBy(factor);
  }

  mark() {
    if (this.marking.hidden) return;
    this.marking.open = !this.marking.open;
    if (this.marking.open) this.marker.querySelector(".um-stage")?.focus();
  }

  /** Shows all pictures as large as the screen allows, each pixel at least once. It counts when they are there. */
  open() {
    if (this.dialog.open) return this.dialog.close();
    const all = [...this.sources.map((src) => ["Source", src]), ...this.outputs.map((output, side) =>
      [this.outputs.length > 1 ? LETTERS[side] : MARK, output.src])];
    if (!all.length) return;
    const figures = all.map(([name, src]) => figure(name, src));
    this.question = div("ub-buttons");
    this.dialog.replaceChildren(div("ub-buttons", button("Close [Esc]", () => this.dialog.close()), this.question),
      div("ub-wall", ...figures));
    this.dialog.showModal();
    this.ask();
    const loads = Promise.allSettled(figures.map((one) => one.querySelector("img").decode()));
    this.loading = loads.then((all) => all.every(({ status }) => status === "fulfilled") && this.opened());
  }

  /** In full size, the question that comes next; `done` closes it. */
  ask(done = false) {
    if (!this.dialog.open) return;
    if (done) this.dialog.close();
    else this.question.replaceChildren(...this.asked());
  }
}

function figure(name, src) {
  return make("figure", { class: "ub-figure" }, make("figcaption", {}, name), make("img", { src, alt: name }));
}

function compare(before, after, first, second, name = "") {
  return make("um-compare", { before, after, "before-label": first, "after-label": second, "before-alt": first,
    "after-alt": second, modes: "side slider difference", mode: "side", class: name });
}
