/* <um-mark>: boxes, points and brush strokes on a picture, each with a label. */

import { ARROWS, SLIP, Surface, button, div, far, make } from "../elements/shown.js";

const TOOLS = { box: "Box", point: "Point", brush: "Brush" };
const BRUSH = 1 / 40; // of the picture's longer side
const SVG = "http://www.w3.org/2000/svg";

function shape(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** Coordinates are pixels of the picture, of which `width` and `height` tell the true size; x1 and y1 lie outside. */
export class Mark extends Surface {
  static exchanged = ["src", "alt", "width", "height"];
  static observedAttributes = [...Mark.exchanged, "labels"];
  marks = [];
  tool = "box";
  drawn = null; // the mark under way
  others = []; // marks of somebody else, which are shown and cannot be changed

  build() {
    this.labels = this.json("labels") ?? [];
    this.label = this.labels[0];
    this.drawing = shape("svg", { class: "ub-marks", preserveAspectRatio: "none", "aria-hidden": "true" });
    this.stage = this.makeSurface(make("img", { draggable: "false" }), "Picture to mark defects on", this.drawing);
    this.hint.textContent = "Drag on the picture. Keys: arrows move the cross-hair, Enter sets a point or a corner.";
    const group = `ub-tool-${Math.random()}`;
    const tools = Object.entries(TOOLS).map(([tool, name]) => make("label", {},
      make("input", { type: "radio", name: group, checked: tool === this.tool, onchange: () => this.choose(tool) }),
      make("span", {}, name)));
    this.select = make("select", { "aria-label": "Label of the next mark", onchange: () => (this.label = this.select.value) },
      ...this.labels.map((label) => make("option", { value: label }, label)));
    this.list = make("ul", { class: "ub-list" });
    return [this.stage, div("um-bar",
      make("div", { class: "um-segments", role: "radiogroup", "aria-label": "Tool" }, ...tools), this.select),
      this.list, this.told, this.hint];
  }

  async load() {
    if (await this.loadPicture()) this.show();
  }

  choose(tool) {
    this.tool = tool;
    this.drawn = null;
    this.show();
  }

  /** Shows marks that were made before. */
  set(marks) {
    this.marks = structuredClone(marks);
    this.show();
  }

  /** Shows marks of somebody else in another colour. */
  beside(marks) {
    this.others = marks;
    this.layout();
  }

  show() {
    if (!this.list) return;
    this.list.replaceChildren(...this.marks.map((mark, index) => make("li", {},
      make("select", { "aria-label": `Label of mark ${index + 1}`, onchange: (event) => {
        mark.label = event.target.value;
        this.tell();
      } }, ...this.labels.map((label) => make("option", { value: label, selected: label === mark.label }, label))),
      ` ${mark.kind} `,
      button("Delete", () => (this.marks.splice(index, 1), this.tell()), { "aria-label": `Delete mark ${index + 1}` }))));
    this.layout();
  }

  layout() {
    super.layout();
    if (!this.columns || !this.drawing) return;
    this.drawing.setAttribute("viewBox", `0 0 ${this.columns} ${this.rows}`);
    const all = [...this.marks, ...(this.drawn ? [this.drawn] : [])];
    const theirs = shape("g", { class: "ub-theirs" });
    theirs.append(...this.others.flatMap((mark) => this.shapes(mark)));
    this.drawing.replaceChildren(theirs, ...all.flatMap((mark) => this.shapes(mark)));
  }

  /** A mark's outline, bright on a dark rim. */
  shapes(mark) {
    const around = (make) => ["ub-rim", "ub-line"].map((name) => make({ class: name, "vector-effect": "non-scaling-stroke" }));
    if (mark.kind === "box") {
      const size = { x: mark.x0, y: mark.y0, width: mark.x1 - mark.x0, height: mark.y1 - mark.y0 };
      return around((style) => shape("rect", { ...size, ...style }));
    }
    if (mark.kind === "point") {
      const r = Math.max(this.columns, this.rows) / 60;
      return around((style) => shape("circle", { cx: mark.x, cy: mark.y, r, ...style }));
    }
    if (mark.kind !== "brush") return []; // a mask comes with imports, and is not drawn
    const line = { points: mark.points.map((point) => point.join(",")).join(" "), "stroke-width": mark.width };
    return [shape("polyline", { ...line, class: "ub-brush" })];
  }

  press(event) {
    this.cursor = null;
    this.from = { ...this.at(event), clientX: event.clientX, clientY: event.clientY };
    if (this.tool === "brush") {
      const width = Math.max(2, Math.round(Math.max(this.columns, this.rows) * BRUSH));
      this.drawn = { kind: "brush", label: this.label, width, points: [round(this.from)] };
    }
    this.layout();
  }

  move(event) {
    if (!this.from || !this.columns) return;
    const place = this.at(event);
    if (this.tool === "brush") this.drawn.points.push(round(place));
    else if (this.tool === "box" && far(this.from, event) > SLIP) this.drawn = this.box(this.from, place);
    this.layout();
  }

  release(event) {
    if (!this.from || !this.columns) return;
    const place = this.at(event);
    if (event.type === "pointercancel") this.drawn = null;
    else if (this.tool === "point") this.add(this.point(place));
    else if (this.drawn) this.add(this.drawn);
    this.from = null;
  }

  key(event) {
    if (!this.columns) return;
    if (event.key in ARROWS) {
      this.steer(event);
      if (this.anchor) this.drawn = this.box(this.anchor, this.cursor);
    } else if (event.key === "Enter" && this.cursor && this.tool === "point") {
      this.add(this.point({ x: this.cursor.x + 0.5, y: this.cursor.y + 0.5 }));
    } else if (event.key === "Enter" && this.cursor) {
      if (this.anchor) this.add(this.box(this.anchor, { x: this.cursor.x + 1, y: this.cursor.y + 1 }));
      else this.anchor = { ...this.cursor };
    } else if (["Delete", "Backspace"].includes(event.key) && this.marks.length) {
      this.marks.pop();
      this.tell();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
    this.layout();
  }

  point(place) {
    const [x, y] = round(place);
    return { kind: "point", label: this.label, x, y };
  }

  box(one, other) {
    const [xs, ys] = [[one.x, other.x], [one.y, other.y]].map((pair) => pair.sort((a, b) => a - b));
    const [x0, y0] = [Math.floor(xs[0]), Math.floor(ys[0])];
    return { kind: "box", label: this.label, x0, y0, x1: Math.max(x0 + 1, Math.ceil(xs[1])),
      y1: Math.max(y0 + 1, Math.ceil(ys[1])) };
  }

  add(mark) {
    this.drawn = this.anchor = null;
    this.marks.push(mark);
    this.tell();
  }

  tell() {
    this.show();
    this.told.textContent = `${this.marks.length} marked`;
    this.emit({ marks: structuredClone(this.marks) });
  }
}

const round = ({ x, y }) => [Math.round(x * 10) / 10, Math.round(y * 10) / 10];
