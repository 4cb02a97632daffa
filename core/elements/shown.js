/* What the elements share: words, tools, and the two classes they are made of. */

/** English; the attribute `strings` replaces any of them. */
export const WORDS = {
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

export const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
export const SLIP = 4; // pixels of the screen that a hand moves during a click
const QUIET_MS = 150; // a change is told when nothing has followed for so long

// Tools ---------------------------------------------------------------------------------------------------------------

let ids = 0;
/** For `id`, and what refers to it. */
export const newId = () => `um-${++ids}`;
export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
export const far = (one, other) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);

/** A new element with attributes, listeners (functions, named `onclick` and so on) and content; strings stay text. */
export function make(tag, attributes = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...inside);
  return element;
}

export const div = (name, ...inside) => make("div", { class: name }, ...inside);
export const button = (text, onclick, attributes = {}) =>
  make("button", { type: "button", onclick, ...attributes }, text);

/** The full address, if it is of this site or carries its data with it. */
export function safe(address) {
  const url = address ? new URL(address, document.baseURI) : null;
  const own = /^https?:$/.test(url?.protocol) && url.origin === location.origin;
  if (!own && !["data:", "blob:"].includes(url?.protocol)) throw new Error("No picture, or one of another site");
  return url.href;
}

/** Gives a picture its address and waits until its pixels are there. */
export async function open(image, address) {
  const url = safe(address);
  if (image.src !== url) image.src = url;
  await image.decode();
  return image;
}

// An element ----------------------------------------------------------------------------------------------------------

export class Shown extends HTMLElement {
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

// A picture with places in it -----------------------------------------------------------------------------------------

export class Surface extends Shown {
  columns = 0; // of the picture; none until it is there
  rows = 0;
  cursor = null; // the pixel under the cross-hair of the keyboard
  speed = 1; // how far an arrow key moves it

  /** The stage with a picture, and marks on it. */
  makeSurface(picture, label, ...marks) {
    this.picture = picture;
    this.hint = make("p", { class: "um-hint", id: newId() });
    this.told = make("p", { class: "um-told", role: "status" });
    this.cross = div("um-cross");
    this.view = div("um-view", picture, ...marks, this.cross);
    const attributes = { role: "application", "aria-label": label, "aria-describedby": this.hint.id };
    return this.makeStage({ ...attributes, onblur: () => this.layout() }, this.view);
  }

  /** Opens the picture of the attributes; `width` and `height` tell its true size where they are given. Whether it is
      still the one that is wanted. */
  async loadPicture() {
    const address = this.getAttribute("src");
    this.picture.alt = this.getAttribute("alt") ?? "";
    try {
      const { naturalWidth, naturalHeight } = await open(this.picture, address);
      [this.columns, this.rows] = [this.number("width", naturalWidth), this.number("height", naturalHeight)];
      this.shape(this.columns, this.rows);
      this.fail();
    } catch {
      if (address !== this.getAttribute("src")) return false; // a newer picture is on its way
      this.columns = this.rows = 0;
      this.fail(this.say("failed"));
    }
    return true;
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
