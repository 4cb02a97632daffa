/* Three elements to look at medical pictures with: <um-compare>, <um-window> and <um-pick>.

   They stand as plain tags in what gr.HTML shows. Gradio changes such a tag in place: it sets the attributes that
   differ, and takes away the children that the new markup does not have. So an element keeps its state in fields,
   never in attributes, and all that it shows in one child, `body`, which it does not give away.

   What comes from outside enters the page as text or as a number only, and no picture is fetched from another site. */
(() => {
"use strict";

/** English; the attribute `strings` replaces any of them. */
const WORDS = {
  failed: "The picture cannot be shown",
  // um-compare
  modes: "View", slider: "Slider", side: "Side by side", difference: "Difference", overlay: "Overlay",
  before: "Before", after: "AI-generated", split: "Divider between the pictures", opacity: "Opacity",
  stage: "Pictures: plus, minus and 0 zoom, arrows move", zoomIn: "Zoom in", zoomOut: "Zoom out",
  zoomReset: "Whole picture", levels: "{most} grey levels", same: "no difference",
  // um-window
  viewer: "Viewer", presets: "Windows", center: "Center", width: "Width", reset: "Reset", slice: "Slice",
  measure: "Measure", length: "Length {length}",
  windowHint: "Drag sideways for width, up and down for center; double click resets. Keys: arrows, with shift faster.",
  sliceHint: "Slices: page up and down, or the wheel after a click.",
  measureHint: "Click both ends. Keys: arrows move the cross-hair, Enter sets an end.",
  // um-pick
  picker: "Picture to mark", clear: "Clear",
  none: "Nothing is marked", textOnly: "Nothing is marked: the text alone counts",
  point: "Point at x {x}, y {y}", box: "Box from x {x0}, y {y0} to x {x1}, y {y1}",
  pointHint: "Click to set a point. Keys: arrows, then Enter.", boxHint: "Drag to draw a box. Keys: shift and arrows.",
};
const MODES = ["slider", "side", "difference", "overlay"];
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const MOST_ZOOM = 16;
const QUIET_MS = 150; // a change is told when nothing has followed for so long
const SLIP = 4; // pixels of the screen that a hand moves during a click
const SLOT = /\{slice\}|%7Bslice%7D/i; // where the number of a slice goes in an address
const MAGMA = ["#000000", "#221150", "#5f187f", "#982d80", "#d3436e", "#f8765c", "#feba80", "#fcfdbf"];

// Tools ---------------------------------------------------------------------------------------------------------------

let ids = 0;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const far = (one, other) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);

/** A new element with attributes, listeners (functions, named `onclick` and so on) and content; strings stay text. */
function make(tag, attributes = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...inside);
  return element;
}

const div = (name, ...inside) => make("div", { class: name }, ...inside);
const button = (text, onclick, attributes = {}) => make("button", { type: "button", onclick, ...attributes }, text);

/** The full address, if it is of this site or carries its data with it. */
function safe(address) {
  const url = address ? new URL(address, document.baseURI) : null;
  const own = /^https?:$/.test(url?.protocol) && url.origin === location.origin;
  if (!own && !["data:", "blob:"].includes(url?.protocol)) throw new Error("No picture, or one of another site");
  return url.href;
}

/** Gives a picture its address and waits until its pixels are there. */
async function open(image, address) {
  const url = safe(address);
  if (image.src !== url) image.src = url;
  await image.decode();
  return image;
}

/** RGBA bytes of a picture, resampled to a size. */
function pixelsOf(image, width, height) {
  const context = make("canvas", { width, height }).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

/** The colour at 0..1 of matplotlib's magma: equal steps look equally large, and more is always lighter. */
function magma(share) {
  const place = share * (MAGMA.length - 1), index = Math.min(Math.floor(place), MAGMA.length - 2);
  const levels = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const from = levels(MAGMA[index]), to = levels(MAGMA[index + 1]);
  return from.map((level, i) => level + (to[i] - level) * (place - index));
}

/** Share of white of a value, before clipping: DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3, as core.data.greyscale has it. */
function shade(value, center, width, kind) {
  if (kind === "SIGMOID") return 1 / (1 + Math.exp((-4 * (value - center)) / width));
  if (kind === "LINEAR" && width >= 1) [center, width] = [center - 0.5, width - 1];
  return width > 0 ? (value - center) / width + 0.5 : Number(value > center);
}

// What all share ------------------------------------------------------------------------------------------------------

class Shown extends HTMLElement {
  static exchanged = []; // attributes that change the picture only; after others the widgets are built anew
  changed = new Set(); // attributes, since the last update

  connectedCallback() {
    this.body ??= div("um-body");
    this.replaceChildren(this.body);
    this.sizes ??= new ResizeObserver(() => this.stage && this.layout());
    this.sizes.observe(this.body);
    this.schedule();
  }

  disconnectedCallback() {
    this.sizes.disconnect();
  }

  attributeChangedCallback(name, before, now) {
    if (before === now) return;
    this.changed.add(name);
    this.schedule();
  }

  /** Gradio takes away what its markup does not have. The body stays, and with it the keyboard's focus. */
  removeChild(child) {
    return child === this.body ? child : super.removeChild(child);
  }

  /** One update after all attributes are set. */
  schedule() {
    if (!this.scheduled) queueMicrotask(() => (this.scheduled = false, this.isConnected && this.update()));
    this.scheduled = true;
  }

  update() {
    const changed = this.changed;
    this.changed = new Set();
    this.words = { ...WORDS, ...this.json("strings") };
    const sides = (this.getAttribute("spacing") ?? "").trim().split(/\s+/).map(Number);
    this.spacing = sides.every((side) => side > 0 && side < Infinity) ? [sides[0], sides.at(-1)] : null; // row, column
    if (!this.stage || [...changed].some((name) => !this.constructor.exchanged.includes(name))) {
      this.fault = make("p", { class: "um-fault", role: "alert", hidden: true });
      this.body.replaceChildren(...this.build(changed), this.fault);
    }
    this.load(changed);
    this.layout();
  }

  /** What is focused and hears keys and pointers. */
  makeStage(attributes, ...inside) {
    const release = (event) => this.release(event);
    return make("div", {
      class: "um-stage", tabindex: 0, ...attributes, onpointerup: release, onpointercancel: release,
      onkeydown: (event) => {
        if (event.target === this.stage && !event.ctrlKey && !event.metaKey && !event.altKey) this.key(event);
      },
      onpointermove: (event) => this.move(event),
      onpointerdown: (event) => {
        if (event.button || !event.target.closest(".um-view")) return;
        this.stage.focus({ preventScroll: true });
        this.stage.setPointerCapture(event.pointerId);
        this.press(event);
      },
    }, ...inside);
  }

  say(key, values = {}) {
    return String(this.words[key]).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
  }

  text(attribute, key) {
    return this.getAttribute(attribute) ?? this.say(key);
  }

  number(attribute, fallback = 0) {
    const value = parseFloat(this.getAttribute(attribute));
    return Number.isFinite(value) ? value : fallback;
  }

  /** The words of an attribute that are among the known ones, or else the usual ones. */
  choices(attribute, known, usual) {
    const found = (this.getAttribute(attribute) ?? "").split(/\s+/).filter((word) => known.includes(word));
    return found.length ? found : usual;
  }

  json(attribute) {
    try {
      return JSON.parse(this.getAttribute(attribute));
    } catch {
      return null;
    }
  }

  /** Gives the view the picture's shape, whose pixels need not be square. */
  shape(columns, rows) {
    const [row, column] = this.spacing ?? [1, 1];
    this.body.style.setProperty("--um-aspect", (columns * column) / (rows * row));
    this.body.classList.toggle("um-oblong", row !== column);
  }

  /** Says what went wrong; without a text it is over. */
  fail(text = "") {
    this.fault.textContent = text;
    this.fault.hidden = !text;
  }

  emit(detail) {
    this.pending = clearTimeout(this.pending);
    this.dispatchEvent(new CustomEvent("um-change", { bubbles: true, detail }));
  }

  emitSoon(detail) {
    clearTimeout(this.pending);
    this.pending = setTimeout(() => this.emit(detail()), QUIET_MS);
  }
}

// <um-compare> --------------------------------------------------------------------------------------------------------

class Compare extends Shown {
  static exchanged = ["before", "after", "difference", "spacing", "overlay-color"];
  static observedAttributes = [...Compare.exchanged, "before-label", "after-label", "before-alt", "after-alt", "modes",
    "mode", "strings"];
  zoom = 1;
  x = 0; // where the left edge of the picture lies, in widths of the view
  y = 0;
  split = 50; // percent
  opacity = 50; // percent
  pointers = new Map(); // by their ids, where they were last
  run = 0; // number of the newest loading

  build(changed) {
    const modes = this.choices("modes", MODES, MODES.slice(0, 3)), group = `um-${++ids}`;
    if (changed.has("mode")) this.mode = this.getAttribute("mode");
    if (!modes.includes(this.mode)) this.mode = modes[0];
    this.before = make("img", { alt: this.text("before-alt", "before"), draggable: "false" });
    this.after = make("img", { alt: this.text("after-alt", "after"), draggable: "false" });
    this.given = new Image(); // the difference, if somebody else has computed it
    this.extra = div("um-extra");
    this.factor = make("span", { class: "um-factor" });
    const attributes = { role: "group", "aria-label": this.say("stage") };
    this.stage = this.makeStage({ ...attributes, onwheel: (event) => this.wheel(event) });
    const radio = (mode) => make("label", {},
      make("input", { type: "radio", name: group, checked: mode === this.mode, onchange: () => this.show(mode) }),
      make("span", {}, this.say(mode)));
    const named = (key, sign = "") => ({ "aria-label": sign + this.say(key), title: this.say(key) });
    this.show(this.mode);
    return [
      div("um-bar",
        make("div", { class: "um-segments", role: "radiogroup", "aria-label": this.say("modes") }, ...modes.map(radio)),
        div("um-zoom",
          button("−", () => this.zoomBy(1 / 1.5), named("zoomOut")), this.factor,
          button("+", () => this.zoomBy(1.5), named("zoomIn")),
          button("1:1", () => this.moveTo(1, 0, 0), named("zoomReset", "1:1 ")))),
      this.stage, this.extra];
  }

  async load() {
    const run = ++this.run, images = { before: this.before, after: this.after };
    if (this.hasAttribute("difference")) images.difference = this.given;
    this.ready = false;
    const loads = Object.entries(images).map(([name, image]) => open(image, this.getAttribute(name)));
    const good = (await Promise.allSettled(loads)).every(({ status }) => status === "fulfilled");
    if (run !== this.run) return; // newer pictures are on their way
    this.ready = good;
    this.fail(good ? "" : this.say("failed"));
    this.stage.classList.toggle("um-stale", !good); // a drawing of earlier pictures
    this.paint();
  }

  /** Lays the pictures out as a mode wants them. */
  show(mode) {
    this.mode = mode;
    const first = make("span", { class: "um-label" }, this.text("before-label", "before"));
    const second = make("span", { class: "um-badge" }, this.text("after-label", "after"));
    const pane = (labels, ...layers) => div("um-pane", div("um-labels", ...labels),
      div("um-view", ...layers, make("div", { class: "um-scale", hidden: true })));
    const layer = (picture, kind = "") => div(`um-layer ${kind}`, picture);
    const percent = (name, attributes) => make("input", {
      type: "range", min: 0, max: 100, value: this[name], ...attributes,
      oninput: (event) => (this[name] = Number(event.target.value), this.layout()),
    });
    let panes, extra = [];
    if (mode === "slider") {
      this.range = percent("split", { "aria-label": this.say("split") });
      panes = [pane([first, second],
        layer(this.before), layer(this.after, "um-later"), this.range, div("um-divider"))];
    } else if (mode === "side") {
      panes = [pane([first], layer(this.before)), pane([second], layer(this.after))];
    } else if (mode === "difference") {
      const label = make("span", {}, "|", second, " − ", first, "|"), ramp = div("um-ramp");
      ramp.style.backgroundImage = `linear-gradient(to right, ${MAGMA.join(", ")})`;
      this.most = make("span");
      this.map = make("canvas", { role: "img", "aria-label": `${this.say("difference")} ${label.textContent}` });
      panes = [pane([label], layer(this.map))];
      extra = [div("um-legend", "0", ramp, this.most)];
    } else {
      this.tint = make("canvas", { role: "img", "aria-label": this.text("after-alt", "after") });
      this.edge = make("canvas", { "aria-hidden": "true" });
      this.swatch = make("span", { class: "um-swatch" });
      this.share = make("span");
      panes = [pane([first, make("span", {}, this.swatch, second)],
        layer(this.before), layer(this.tint, "um-tint"), layer(this.edge))];
      extra = [make("label", {}, this.say("opacity"), percent("opacity"), this.share)];
    }
    this.stage.dataset.mode = mode;
    this.stage.replaceChildren(...panes);
    this.extra.replaceChildren(...extra);
    this.paint();
  }

  /** Draws what is computed from the pictures, once they are there. */
  paint() {
    if (this.ready) {
      this.shape(this.before.naturalWidth, this.before.naturalHeight);
      if (this.mode === "difference") this.paintDifference(this.after.naturalWidth, this.after.naturalHeight);
      if (this.mode === "overlay") this.paintOverlay(this.after.naturalWidth, this.after.naturalHeight);
    }
    this.layout();
  }

  /** |after - before|, the mean of the three colours, at the size of the after picture. */
  paintDifference(width, height) {
    const given = this.hasAttribute("difference"), after = pixelsOf(given ? this.given : this.after, width, height);
    const before = given ? new Uint8ClampedArray(after.length) : pixelsOf(this.before, width, height);
    const levels = new Float32Array(width * height);
    for (let i = 0; i < levels.length; i++) {
      for (let c = 4 * i; c < 4 * i + 3; c++) levels[i] += Math.abs(after[c] - before[c]) / 3;
    }
    const most = levels.reduce((high, level) => Math.max(high, level), 0);
    const colours = Array.from({ length: 256 }, (_, i) => [...magma(i / 255), 255]);
    const picture = new ImageData(width, height);
    levels.forEach((level, i) => picture.data.set(colours[most && Math.round((255 * level) / most)], 4 * i));
    Object.assign(this.map, { width, height }).getContext("2d").putImageData(picture, 0, 0);
    this.most.textContent = most ? this.say("levels", { most: Math.round(most) }) : this.say("same");
  }

  /** The inside of the mask in colour, and its outline. */
  paintOverlay(width, height) {
    const [tint, edge] = [new ImageData(width, height), new ImageData(width, height)];
    const mask = pixelsOf(this.after, width, height);
    const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && mask[4 * (y * width + x)] >= 128;
    const line = Math.max(1, Math.round(Math.max(width, height) / 300)); // visible when a large mask is shown small
    for (let i = 0; i < width * height; i++) {
      const [x, y] = [i % width, Math.floor(i / width)];
      if (!inside(x, y)) continue;
      tint.data[4 * i + 3] = 255;
      if (!Object.values(ARROWS).every(([dx, dy]) => inside(x + line * dx, y + line * dy))) edge.data[4 * i + 3] = 255;
    }
    for (const [canvas, picture] of [[this.tint, tint], [this.edge, edge]]) {
      const context = Object.assign(canvas, { width, height }).getContext("2d");
      context.putImageData(picture, 0, 0);
      context.globalCompositeOperation = "source-in";
      context.fillStyle = "#00d0a0";
      context.fillStyle = this.getAttribute("overlay-color") ?? ""; // what is no colour changes nothing
      context.fillRect(0, 0, width, height);
      this.swatch.style.backgroundColor = context.fillStyle;
    }
  }

  /** Shows the state: zoom, divider, opacity, scale. */
  layout() {
    const state = { x: `${100 * this.x}%`, y: `${100 * this.y}%`, zoom: this.zoom, split: `${this.split}%`,
      opacity: this.opacity / 100 };
    for (const [name, value] of Object.entries(state)) this.stage.style.setProperty(`--um-${name}`, value);
    this.stage.classList.toggle("um-zoomed", this.zoom > 1);
    this.stage.classList.toggle("um-blocks", this.zoom > 4);
    this.factor.textContent = `${this.zoom.toFixed(1)}×`;
    if (this.mode === "overlay") this.share.textContent = `${this.opacity} %`;
    const { clientWidth } = this.stage.querySelector(".um-view");
    const shown = this.ready && this.spacing && clientWidth > 0;
    const across = shown ? this.before.naturalWidth * this.spacing[1] : 1;
    const mm = across / (clientWidth * this.zoom); // of a pixel of the screen
    const most = (clientWidth * mm) / 3, power = 10 ** Math.floor(Math.log10(most));
    const length = [5, 2, 1].find((digit) => digit * power <= most) * power;
    for (const bar of this.stage.querySelectorAll(".um-scale")) {
      bar.hidden = !shown;
      bar.style.width = `${length / mm}px`;
      bar.textContent = `${Number(length.toPrecision(1))} mm`;
    }
  }

  /** Zooms and moves, no further than the edges. True if that changes anything. */
  moveTo(zoom, x, y) {
    const was = [this.zoom, this.x, this.y];
    this.zoom = zoom < 1.01 ? 1 : Math.min(zoom, MOST_ZOOM);
    this.x = clamp(x, 1 - this.zoom, 0);
    this.y = clamp(y, 1 - this.zoom, 0);
    this.layout();
    return [this.zoom, this.x, this.y].some((value, i) => value !== was[i]);
  }

  /** Zooms around a place of the view, which stays where it is. */
  zoomBy(factor, [x, y] = [0.5, 0.5]) {
    const grown = clamp(this.zoom * factor, 1, MOST_ZOOM) / this.zoom;
    return this.moveTo(this.zoom * grown, x - (x - this.x) * grown, y - (y - this.y) * grown);
  }

  key(event) {
    const [dx, dy] = ARROWS[event.key] ?? [0, 0];
    const factor = { "+": 1.5, "=": 1.5, "-": 1 / 1.5, 0: 0 }[event.key] ?? 1;
    const moved = this.moveTo(this.zoom, this.x - dx / 10, this.y - dy / 10);
    if (this.zoomBy(factor) || moved) event.preventDefault();
  }

  /** Zooms with ctrl, or after a click into the picture; else, and at the ends, the page scrolls. */
  wheel(event) {
    if (!event.ctrlKey && !this.stage.contains(document.activeElement)) return;
    const view = event.target.closest(".um-view") ?? this.stage.querySelector(".um-view");
    const rolled = clamp(event.deltaY * (event.deltaMode ? 30 : 1), -200, 200);
    if (this.zoomBy(Math.exp(-rolled / 400), this.within(view, event)) || event.ctrlKey) event.preventDefault();
  }

  /** Where a pointer is, in widths and heights of a view. */
  within(view, { clientX, clientY }) {
    const box = view.getBoundingClientRect();
    return [(clientX - box.left) / box.width, (clientY - box.top) / box.height];
  }

  press(event) {
    this.view = event.target.closest(".um-view");
    this.pointers.set(event.pointerId, event);
    const [x] = this.within(this.view, event);
    const near = Math.abs(x - this.split / 100) * this.view.clientWidth < 24; // the divider
    this.grips = this.mode === "slider" && this.pointers.size === 1 && (this.zoom === 1 || near);
    this.move(event);
  }

  /** Two fingers zoom; one moves the divider, or the picture. */
  move(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last) return;
    this.pointers.set(event.pointerId, event);
    const other = [...this.pointers.values()].find((pointer) => pointer !== event);
    const [x, y] = this.within(this.view, event), [lastX, lastY] = this.within(this.view, last);
    if (other) {
      const [otherX, otherY] = this.within(this.view, other);
      this.zoomBy(far(event, other) / Math.max(far(last, other), 1), [(x + otherX) / 2, (y + otherY) / 2]);
    } else if (this.grips) {
      this.range.value = this.split = clamp(Math.round(100 * x), 0, 100);
      this.layout();
    } else {
      this.moveTo(this.zoom, this.x + x - lastX, this.y + y - lastY);
    }
  }

  release(event) {
    this.pointers.delete(event.pointerId);
  }
}

// A picture with places in it -----------------------------------------------------------------------------------------

class Surface extends Shown {
  columns = 0; // of the picture; none until it is there
  rows = 0;
  cursor = null; // the pixel under the cross-hair of the keyboard
  speed = 1; // how far an arrow key moves it

  /** The stage with a picture, and marks on it. */
  makeSurface(picture, label, ...marks) {
    this.picture = picture;
    this.hint = make("p", { class: "um-hint", id: `um-${++ids}` });
    this.told = make("p", { class: "um-told", role: "status" });
    this.cross = div("um-cross");
    this.view = div("um-view", picture, ...marks, this.cross);
    const attributes = { role: "application", "aria-label": label, "aria-describedby": this.hint.id };
    return this.makeStage({ ...attributes, onblur: () => this.layout() }, this.view);
  }

  /** Where a pointer is, in pixels of the picture, with decimals. */
  at({ clientX, clientY }) {
    const box = this.view.getBoundingClientRect();
    return {
      x: clamp((clientX - box.left) / box.width, 0, 1) * this.columns,
      y: clamp((clientY - box.top) / box.height, 0, 1) * this.rows,
    };
  }

  /** The pixel that covers a place. */
  pixel({ x, y }) {
    return { x: clamp(Math.floor(x), 0, this.columns - 1), y: clamp(Math.floor(y), 0, this.rows - 1) };
  }

  /** Moves the cross-hair by a pixel, and faster while the key is held. Returns where it was. */
  steer(event) {
    const from = this.cursor ?? this.pixel({ x: this.columns / 2, y: this.rows / 2 });
    this.speed = event.repeat ? Math.min(this.speed * 1.2, Math.max(1, this.columns / 32)) : 1;
    const [dx, dy] = ARROWS[event.key].map((direction) => direction * Math.round(this.speed));
    this.cursor = this.pixel({ x: from.x + dx, y: from.y + dy });
    return from;
  }

  /** Lays a mark onto a place, or onto a part of the picture. */
  place(mark, x, y, width = 0, height = 0) {
    const [column, row] = [100 / this.columns, 100 / this.rows];
    mark.style.cssText = `left: ${x * column}%; top: ${y * row}%;`
      + (width ? `width: ${width * column}%; height: ${height * row}%` : `translate: ${-x * column}% ${-y * row}%`);
    mark.hidden = false;
  }

  layout() {
    const { x, y } = this.cursor ?? {};
    this.cross.hidden = true;
    if (this.cursor && document.activeElement === this.stage) this.place(this.cross, x + 0.5, y + 0.5);
  }
}

// <um-window> ---------------------------------------------------------------------------------------------------------

class Viewer extends Surface {
  static exchanged = ["src", "slice", "center", "width", "alt", "slope", "intercept", "function", "inverted", "padding",
    "rows", "cols", "spacing"];
  static observedAttributes = [...Viewer.exchanged, "units", "presets", "slices", "label", "rgb", "strings"];
  slice = 0; // from 0; people count from 1
  asked = []; // slices that somebody else is to send
  rolled = 0; // by the wheel, since the last slice

  build() {
    this.colour = this.hasAttribute("rgb");
    this.slices = Math.max(1, this.number("slices", 1));
    const [marks, line] = ["svg", "line"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
    marks.setAttribute("class", "um-marks");
    marks.append(line);
    this.line = line;
    this.length = div("um-length");
    this.stage = this.makeSurface(make("canvas", { role: "img" }), this.text("label", "viewer"), marks, this.length);
    this.stage.addEventListener("dblclick", () => this.measuring || this.reset());
    this.stage.addEventListener("wheel", (event) => this.wheel(event));
    this.stage.addEventListener("pointerleave", () => (this.spot = null, this.layout()));
    this.readout = div("um-readout");
    this.counter = make("span", { class: "um-counter" });
    this.range = make("input", { type: "range", min: 1, max: this.slices, step: 1, "aria-label": this.say("slice"),
      oninput: () => this.go(Number(this.range.value) - 1) });
    this.ruler = button(this.say("measure"), () => this.measure(!this.measuring));
    this.measure(false);
    const reset = this.colour ? [] : [button(this.say("reset"), () => this.reset())];
    return [div("um-columns",
      div("um-main", div("um-title", this.getAttribute("label") ?? ""), this.stage,
        make("div", { class: "um-slices", hidden: this.slices < 2 }, this.say("slice"), this.range, this.counter),
        this.readout),
      div("um-side", ...this.buildWindow(), div("um-tools", this.ruler, ...reset, this.told), this.hint))];
  }

  /** Presets, and the fields for center and width. */
  buildWindow() {
    const given = this.json("presets"), usable = ({ center, width }) => Number.isFinite(center) && width > 0;
    this.presets = (Array.isArray(given) ? given : []).filter((item) => item && usable(item));
    for (const preset of this.presets) {
      preset.button = button(String(preset.name), () => this.look(preset.center, preset.width));
    }
    const listeners = { oninput: () => this.type(), onblur: () => this.draw() };
    const number = () => make("input", { type: "number", step: "any", ...listeners });
    this.fields = { center: number(), width: number() };
    if (this.colour) return [];
    const units = this.getAttribute("units") ?? "";
    const field = (name) => make("label", {}, make("span", {}, this.say(name)), this.fields[name], units);
    return [
      make("div", { class: "um-presets", role: "group", "aria-label": this.say("presets") },
        ...this.presets.map((preset) => preset.button)),
      div("um-fields", field("center"), field("width"))];
  }

  load(changed) {
    this.slope = this.number("slope", 1) || 1;
    this.intercept = this.number("intercept");
    this.digits = clamp(Math.ceil(-Math.log10(Math.abs(this.slope))), 0, 6); // decimals that tell stored values apart
    this.unit = 10 ** -this.digits;
    this.picture.setAttribute("aria-label", this.getAttribute("alt") ?? "");
    // A slice that was asked for comes into the window that the person has chosen; another picture brings its own.
    const slice = this.number("slice"), answer = this.asked.indexOf(slice), other = changed.has("src") && answer < 0;
    if (changed.has("src")) this.asked = this.asked.slice(answer + 1);
    if (other) this.pending = clearTimeout(this.pending);
    if (!this.pending) {
      if (other || changed.has("slice")) this.slice = clamp(slice, 0, this.slices - 1);
      if (other || (answer < 0 && (changed.has("center") || changed.has("width")))) this.default();
    }
    if (["src", "rows", "cols", "rgb"].some((name) => changed.has(name))) this.seen = this.ends = null;
    this.fetch();
    this.draw();
  }

  /** Address and number of the slice to show. Without a slot for the number somebody else exchanges `src`. */
  get wanted() {
    const source = this.getAttribute("src") ?? "", slice = SLOT.test(source) ? this.slice : this.number("slice");
    return { url: source.replace(SLOT, slice), slice };
  }

  /** Gets the slice that is wanted: one at a time, and then the newest wish. */
  async fetch() {
    if (this.fetching) return;
    this.fetching = true;
    while (this.isConnected && this.seen?.url !== this.wanted.url) {
      const wanted = this.wanted;
      try {
        await (this.colour ? this.readColours(wanted.url) : this.readValues(wanted.url));
        this.shape(this.columns, this.rows);
        this.fail();
      } catch {
        this.columns = this.rows = 0;
        this.fail(this.say("failed"));
      }
      this.seen = wanted;
      this.draw();
    }
    this.fetching = false;
  }

  async readColours(url) {
    this.pixels = await open(new Image(), url);
    [this.columns, this.rows] = [this.pixels.naturalWidth, this.pixels.naturalHeight];
  }

  async readValues(url) {
    const answer = await fetch(safe(url)), bytes = await answer.arrayBuffer();
    const columns = this.number("cols"), rows = this.number("rows");
    if (!answer.ok || bytes.byteLength !== 2 * rows * columns) throw new Error("Not a picture of this size");
    this.pixels = new Int16Array(bytes); // little-endian, as every machine with a browser is
    [this.columns, this.rows] = [columns, rows];
  }

  /** Draws with the next frame of the screen, however often it is called until then. */
  draw() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.paint();
      this.layout();
    });
  }

  paint() {
    this.stage.classList.toggle("um-stale", this.seen?.slice !== this.slice); // no picture under the number of another
    this.range.value = this.slice + 1;
    this.counter.textContent = `${this.slice + 1} / ${this.slices}`;
    this.range.setAttribute("aria-valuetext", this.counter.textContent);
    for (const [name, field] of Object.entries(this.fields)) {
      if (document.activeElement !== field) field.value = this[name];
    }
    for (const { button, center, width } of this.presets) {
      button.setAttribute("aria-pressed", center === this.center && width === this.width);
    }
    Object.assign(this.picture, { width: this.columns || 1, height: this.rows || 1 }); // empties it, too
    if (!this.columns || this.colour !== this.pixels instanceof Image) return; // not yet those of this kind of scan
    const context = this.picture.getContext("2d");
    if (this.colour) return context.drawImage(this.pixels, 0, 0);
    const greys = this.greys(), picture = new ImageData(this.columns, this.rows);
    const rgba = new Uint32Array(picture.data.buffer);
    for (let i = 0; i < rgba.length; i++) rgba[i] = 0xff000000 | (greys[this.pixels[i] & 0xffff] * 0x010101);
    context.putImageData(picture, 0, 0);
  }

  /** The grey of every stored value. */
  greys() {
    const kind = this.getAttribute("function") ?? "LINEAR", inverted = this.hasAttribute("inverted");
    const greys = new Uint8ClampedArray(65536); // clips, and rounds as numpy does
    for (let stored = -32768; stored < 32768; stored++) {
      const white = shade(stored * this.slope + this.intercept, this.center, this.width, kind);
      greys[stored & 0xffff] = 255 * (inverted ? 1 - white : white);
    }
    if (this.hasAttribute("padding")) greys[this.number("padding") & 0xffff] = 0;
    return greys;
  }

  /** Shows what lies on the picture, and what is said about it. */
  layout() {
    super.layout();
    const [start, end] = (this.columns && this.ends) || [], length = start ? this.distance(start, end) : "";
    this.line.style.display = start ? "" : "none";
    this.length.hidden = !start;
    this.length.textContent = length;
    this.told.textContent = start && !this.drawing ? this.say("length", { length }) : "";
    this.readout.textContent = this.spot && this.columns ? this.describe(this.pixel(this.spot)) : "\u00a0";
    if (!start) return;
    [start, end].forEach(({ x, y }, i) => {
      this.line.setAttribute(`x${i + 1}`, `${(100 * x) / this.columns}%`);
      this.line.setAttribute(`y${i + 1}`, `${(100 * y) / this.rows}%`);
    });
    this.place(this.length, end.x, end.y);
    this.length.style.marginTop = end.y > this.rows / 2 ? "-0.7rem" : "0.7rem"; // beside the end of the line
  }

  describe({ x, y }) {
    const parts = [`x ${x}, y ${y} px`], stored = this.colour ? null : this.pixels[y * this.columns + x];
    const empty = this.colour || (this.hasAttribute("padding") && stored === this.number("padding"));
    const value = (stored * this.slope + this.intercept).toFixed(this.digits);
    if (!empty) parts.unshift(`${value} ${this.getAttribute("units") ?? ""}`.trim());
    if (this.spacing) parts.push(`${(x * this.spacing[1]).toFixed(1)}, ${(y * this.spacing[0]).toFixed(1)} mm`);
    return parts.join(" · ");
  }

  distance(start, end) {
    const [row, column] = this.spacing ?? [1, 1];
    const length = Math.hypot((end.x - start.x) * column, (end.y - start.y) * row);
    return `${length.toFixed(1)} ${this.spacing ? "mm" : "px"}`;
  }

  // What a person does

  tell() {
    this.emitSoon(() => {
      const { center, width, slice } = this;
      if (!SLOT.test(this.getAttribute("src")) && slice !== this.number("slice")) this.asked.push(slice);
      return { center, width, slice, key: this.getAttribute("key") };
    });
  }

  look(center, width) {
    Object.assign(this, { center, width });
    this.draw();
    this.tell();
  }

  /** A window from a drag or a key, in steps that the stored values can show. */
  turn(center, width) {
    const [rounded, wide] = [center, width].map((value) => Number(value.toFixed(this.digits)));
    if (!this.colour) this.look(rounded, Math.max(wide, this.unit));
  }

  type() {
    const [center, width] = [this.fields.center.valueAsNumber, this.fields.width.valueAsNumber];
    if (Number.isFinite(center) && width > 0) this.look(center, width);
  }

  /** The window that the attributes state. */
  default() {
    Object.assign(this, { center: this.number("center"), width: this.number("width", 1) });
  }

  reset() {
    this.default();
    this.tell();
    this.draw();
  }

  go(slice) {
    slice = clamp(slice, 0, this.slices - 1);
    if (slice === this.slice) return;
    Object.assign(this, { slice, ends: null, drawing: false });
    this.fetch();
    this.draw();
    this.tell();
  }

  measure(on) {
    Object.assign(this, { measuring: on, ends: null, drawing: false });
    this.ruler.setAttribute("aria-pressed", on);
    this.stage.classList.toggle("um-measuring", on);
    const keys = on ? ["measureHint"] : [!this.colour && "windowHint", this.slices > 1 && "sliceHint"];
    this.hint.textContent = keys.filter(Boolean).map((key) => this.say(key)).join(" ");
    this.layout();
  }

  /** Sets an end of the line: the first, or the second after it. */
  setEnd(place) {
    this.ends = this.drawing ? [this.ends[0], place] : [place, place];
    this.drawing = !this.drawing;
  }

  press({ clientX, clientY }) {
    this.cursor = null;
    this.from = { clientX, clientY, center: this.center, width: this.width };
    if (this.measuring) this.setEnd(this.at(this.from));
    this.layout();
  }

  move(event) {
    this.spot = this.at(event);
    if (this.drawing) {
      this.ends = [this.ends[0], this.spot];
    } else if (this.from && !this.measuring) {
      const { center, width, clientX, clientY } = this.from;
      const gain = Math.max(width / 256, this.unit); // of a pixel of the screen
      this.turn(center + gain * (clientY - event.clientY), width + gain * (event.clientX - clientX));
    }
    this.layout();
  }

  release(event) {
    if (this.drawing && this.from && far(this.from, event) > SLIP) this.setEnd(this.at(event));
    this.from = null;
    this.layout();
  }

  key(event) {
    const pages = { PageUp: -1, PageDown: 1 }[event.key], [dx, dy] = ARROWS[event.key] ?? [];
    const step = this.unit * (event.shiftKey ? 10 : 1);
    if (pages) {
      this.go(this.slice + pages);
    } else if (dx !== undefined && this.measuring) {
      this.steer(event);
      this.spot = { x: this.cursor.x + 0.5, y: this.cursor.y + 0.5 };
      if (this.drawing) this.ends = [this.ends[0], this.spot];
    } else if (dx !== undefined && !this.colour) {
      this.turn(this.center - dy * step, this.width + dx * step);
    } else if (event.key === "Enter" && this.measuring && this.cursor) {
      this.setEnd(this.spot);
    } else {
      return;
    }
    event.preventDefault();
    this.layout();
  }

  /** Turns over slices after a click into the picture; else the page scrolls. */
  wheel(event) {
    if (this.slices < 2 || event.ctrlKey || document.activeElement !== this.stage) return;
    event.preventDefault();
    this.rolled += event.deltaY * (event.deltaMode ? 30 : 1);
    if (Math.abs(this.rolled) < 50) return;
    this.go(this.slice + Math.sign(this.rolled));
    this.rolled = 0;
  }
}

// <um-pick> -----------------------------------------------------------------------------------------------------------

/** Pixel x covers x to x + 1, and x1 and y1 of a box lie outside of it, as in core.tasks.regions. */
class Pick extends Surface {
  static exchanged = ["src", "alt", "width", "height"];
  static observedAttributes = [...Pick.exchanged, "modes", "strings"];
  found = { kind: "none" };

  build() {
    this.allowed = this.choices("modes", ["text", "point", "box"], ["point", "box"]);
    [this.outline, this.dot] = [div("um-box"), div("um-dot")];
    this.stage = this.makeSurface(make("img", { draggable: "false" }), this.say("picker"), this.outline, this.dot);
    const kinds = ["point", "box"].filter((kind) => this.allowed.includes(kind));
    this.hint.textContent = kinds.map((kind) => this.say(`${kind}Hint`)).join(" ");
    const clear = button(this.say("clear"), () => this.set({ kind: "none" }));
    return [this.stage, div("um-tools", clear, this.told), this.hint];
  }

  async load(changed) {
    const address = this.getAttribute("src");
    if (changed.has("src") && this.found.kind !== "none") this.set({ kind: "none" }); // a mark belongs to its picture
    this.picture.alt = this.getAttribute("alt") ?? "";
    try {
      const { naturalWidth, naturalHeight } = await open(this.picture, address);
      [this.columns, this.rows] = [this.number("width", naturalWidth), this.number("height", naturalHeight)];
      this.shape(this.columns, this.rows);
      this.fail();
    } catch {
      if (address !== this.getAttribute("src")) return; // a newer picture is on its way
      this.columns = this.rows = 0;
      this.fail(this.say("failed"));
    }
    this.show(this.found);
  }

  /** The pixels that are spanned by two places, or by two of themselves. */
  box(one, other) {
    const from = this.pixel({ x: Math.min(one.x, other.x), y: Math.min(one.y, other.y) });
    const to = this.pixel({ x: Math.max(one.x, other.x), y: Math.max(one.y, other.y) });
    return { kind: "box", x0: from.x, y0: from.y, x1: to.x + 1, y1: to.y + 1 };
  }

  set(found) {
    this.show(found);
    this.emit(found);
  }

  /** Marks what is found, and says it in words unless it is still being drawn. */
  show(found, said = true) {
    this.found = found;
    const words = found.kind === "none" && this.allowed.includes("text") ? "textOnly" : found.kind;
    if (said) this.told.textContent = this.say(words, found);
    this.layout();
  }

  layout() {
    super.layout();
    const { kind, x, y, x0, y0, x1, y1 } = this.columns ? this.found : {};
    this.dot.hidden = this.outline.hidden = true;
    if (kind === "point") this.place(this.dot, x + 0.5, y + 0.5);
    if (kind === "box") this.place(this.outline, x0, y0, x1 - x0, y1 - y0);
  }

  press(event) {
    this.cursor = null;
    this.from = { event, before: this.found };
  }

  move(event) {
    if (!this.from || !this.columns || !this.allowed.includes("box") || far(this.from.event, event) <= SLIP) return;
    this.show(this.box(this.at(this.from.event), this.at(event)), false);
  }

  release(event) {
    if (!this.from || !this.columns) return;
    const { event: start, before } = this.from;
    this.from = null;
    if (event.type === "pointercancel") this.show(before);
    else if (this.found !== before) this.set(this.found);
    else if (this.allowed.includes("point")) this.set({ kind: "point", ...this.pixel(this.at(start)) });
  }

  key(event) {
    if (!this.columns) return;
    if (event.key in ARROWS) {
      const from = this.steer(event);
      this.anchor = event.shiftKey ? this.anchor ?? from : null;
      if (this.anchor && this.allowed.includes("box")) {
        this.show(this.box(this.anchor, this.cursor));
        this.emitSoon(() => this.found);
      }
    } else if (event.key === "Enter" && this.cursor && this.allowed.includes("point")) {
      this.set({ kind: "point", ...this.cursor });
    } else if (["Delete", "Backspace", "Escape"].includes(event.key)) {
      this.set({ kind: "none" });
    } else {
      return;
    }
    event.preventDefault();
    this.layout();
  }
}

// Into the page -------------------------------------------------------------------------------------------------------

for (const [name, element] of Object.entries({ "um-compare": Compare, "um-window": Viewer, "um-pick": Pick })) {
  if (!customElements.get(name)) customElements.define(name, element);
}

/** Hands what an element tells to the Gradio text box that its attribute `to` names, as if somebody had typed it. */
document.addEventListener("um-change", ({ target, detail }) => {
  const field = document.getElementById(target.getAttribute("to"))?.querySelector("textarea, input");
  if (!field) return;
  Object.getOwnPropertyDescriptor(Object.getPrototypeOf(field), "value").set.call(field, JSON.stringify(detail));
  field.dispatchEvent(new Event("input", { bubbles: true })); // Gradio takes it and runs what listens to `change`
  field.dispatchEvent(new KeyboardEvent("keypress", { bubbles: true })); // and only now what listens to `input`
});
})();
