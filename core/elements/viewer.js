/* <um-window>: a scan in a window of grey levels, slice by slice. */

import { ARROWS, SLIP, clamp, far, make, div, button, safe, open, Surface } from "./shown.js";

const SLOT = /\{slice\}|%7Bslice%7D/i; // where the number of a slice goes in an address

/** Share of white of a value, before clipping: DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3, as core.data.greyscale has it. */
function shade(value, center, width, kind) {
  if (kind === "SIGMOID") return 1 / (1 + Math.exp((-4 * (value - center)) / width));
  if (kind === "LINEAR" && width >= 1) [center, width] = [center - 0.5, width - 1];
  return width > 0 ? (value - center) / width + 0.5 : Number(value > center);
}

export class Viewer extends Surface {
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
