/* The pictures of an item: source and outputs beside each other, in full size, and to mark defects on. */

import { button, clamp, div, make } from "../elements/shown.js";
import { plain } from "./text.js";

/** Names of the sides that are compared. */
export const LETTERS = "ABCDEFGH";

/** Outputs stand beside imported ones, which may be real: the same for all, or nobody would be blind. */
export const MARK = "May be AI-generated";

/** The pictures of a request with their names, which are numbered where there are several. */
export function sources(inputs) {
  const found = inputs.filter((input) => input.type === "image");
  return found.map((input, index) => ({ name: found.length > 1 ? `Source ${index + 1}` : "Source", src: input.src }));
}

const MOST_ZOOM = 16;

/** `opened` is called once they were seen in full size, `marked` with the regions; `asked` makes what stands above them in
    full size. */
export function pictures(task, base, { opened, marked, asked }) {
  const address = (one) => new URL(`../${one.src}`, new URL(`${base}/`, document.baseURI)).href;
  const outputs = task.order.map((index, side) => ({ ...task.outputs[index], name: task.order.length > 1 ? LETTERS[side] : MARK }));
  const addressed = (all) => all.map((one) => (one.src ? { ...one, src: address(one) } : one));
  return new Pictures(task, addressed(sources(task.inputs)), addressed(outputs), opened, marked, asked);
}

class Pictures {
  constructor(task, sources, outputs, opened, marked, asked) {
    [this.opened, this.asked] = [opened, asked];
    const drawn = outputs.filter((output) => output.kind === "image"), [first] = drawn;
    this.all = [...sources, ...drawn];
    const marks = task.kind === "rate" && first && task.rubric.defects.length;
    this.marker = marks ? make("um-mark", {
      src: first.src, width: first.width, height: first.height, alt: MARK,
      labels: JSON.stringify(task.rubric.defects), "onum-change": (event) => marked(event.detail.marks),
    }) : null;
    this.marking = make("details", { class: "ub-marking", hidden: !marks }, make("summary", {}, "Mark defects [M]"),
      ...(marks ? [this.marker] : []));
    this.dialog = make("dialog", { class: "ub-full", "aria-label": "Full size" });
    this.element = div("ub-pictures", ...this.side(task, sources, outputs, drawn),
      ...(this.all.length ? [this.tools()] : []), this.marking, this.dialog);
  }

  /** Source and output, or two that are compared, in one view that zooms and moves together; else all in a row. */
  side(task, sources, outputs, drawn) {
    if (task.kind === "compare" && drawn.length === 2 && outputs.length === 2) {
      return [...sources.map(single), compare(...drawn, "ub-alike")];
    }
    if (outputs.length === 1 && drawn.length && sources.length) {
      return [compare(sources.at(-1), drawn[0]), ...sources.slice(0, -1).map(single)];
    }
    const shown = task.kind === "compare" ? outputs : drawn; // a text that is rated stands with its questions
    return [div("ub-grid", ...sources.map(single),
      ...shown.map((output) => output.kind === "image" ? single(output) : plain(output.name, output.text)))];
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

  /** Shows marks of somebody else beside one's own. */
  beside(regions) {
    this.marker.beside(regions);
    if (regions.length) this.marking.open = true;
    this.marking.scrollIntoView({ block: "nearest" });
  }

  /** The next way to look at two pictures: side by side, slider, difference. */
  turn() {
    const ways = [...this.element.querySelectorAll("um-compare .um-segments input")];
    ways[(ways.findIndex((way) => way.checked) + 1) % ways.length]?.click();
  }

  /** Zooms all pictures alike; by 0 back to the whole. */
  zoom(factor) {
    if (!this.dialog.open) return this.element.querySelectorAll("um-compare").forEach((one) => one.zoomBy(factor));
    this.factor = factor ? clamp(this.factor * factor, 1, MOST_ZOOM) : 1;
    this.dialog.style.setProperty("--ub-zoom", this.factor);
    this.sharpen();
  }

  /** In full size, pixels are seen as such where they are enlarged. */
  sharpen() {
    for (const image of this.dialog.querySelectorAll("img")) {
      image.classList.toggle("ub-blocks", image.clientWidth > image.naturalWidth);
    }
  }

  mark() {
    if (this.marking.hidden) return;
    this.marking.open = !this.marking.open;
    if (this.marking.open) this.marker.querySelector(".um-stage")?.focus();
  }

  /** Shows all pictures as large as the screen allows, and no smaller than they are. It counts when they are there. */
  open() {
    if (this.dialog.open) return this.dialog.close();
    if (!this.all.length) return;
    const figures = this.all.map(({ name, src }) => make("figure", {}, make("figcaption", {}, name), make("img", { src, alt: name })));
    this.question = div("ub-buttons");
    this.dialog.replaceChildren(div("ub-buttons", button("Close [Esc]", () => this.dialog.close()), this.question),
      div("ub-wall", ...figures));
    this.dialog.style.setProperty("--ub-count", figures.length);
    this.dialog.showModal();
    this.ask();
    this.zoom(0);
    const loads = Promise.allSettled(figures.map((figure) => this.fit(figure)));
    this.loading = loads.then((all) => all.every(({ status }) => status === "fulfilled") && this.opened());
  }

  /** Tells the layout the size of a picture, once it is there. */
  async fit(figure) {
    const image = figure.querySelector("img");
    await image.decode();
    figure.style.setProperty("--ub-own", `${image.naturalWidth}px`);
    figure.style.setProperty("--ub-aspect", image.naturalWidth / image.naturalHeight);
    this.sharpen();
  }

  /** In full size, the question that comes next; `done` closes it. */
  ask(done = false) {
    if (!this.dialog.open) return;
    if (done) this.dialog.close();
    else this.question.replaceChildren(...this.asked());
  }
}

function single({ name, src }) {
  return make("um-compare", { before: src, "before-label": name, "before-alt": name, alone: true });
}

function compare(before, after, name = "") {
  return make("um-compare", { before: before.src, after: after.src, "before-label": before.name, "after-label": after.name,
    "before-alt": before.name, "after-alt": after.name, modes: "side slider difference", mode: "side", class: name });
}
