/* <um-compare>: two pictures before and after; with the attribute `alone` the first of them only. */

import { ARROWS, newId, clamp, far, make, div, button, open, Shown } from "./shown.js";

const MODES = ["slider", "side", "difference", "overlay"];
const MOST_ZOOM = 16;
const MAGMA = ["#000000", "#221150", "#5f187f", "#982d80", "#d3436e", "#f8765c", "#feba80", "#fcfdbf"];

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

export class Compare extends Shown {
  static exchanged = ["before", "after", "difference", "spacing", "overlay-color"];
  static observedAttributes = [...Compare.exchanged, "before-label", "after-label", "before-alt", "after-alt", "modes",
    "mode", "alone", "strings"];
  zoom = 1;
  x = 0; // where the left edge of the picture lies, in widths of the view
  y = 0;
  split = 50; // percent
  opacity = 50; // percent
  pointers = new Map(); // by their ids, where they were last
  run = 0; // number of the newest loading

  build(changed) {
    this.alone = this.hasAttribute("alone");
    const modes = this.alone ? ["alone"] : this.choices("modes", MODES, MODES.slice(0, 3)), group = newId();
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
        ...(this.alone ? [] : [make("div", { class: "um-segments", role: "radiogroup", "aria-label": this.say("modes") },
          ...modes.map(radio))]),
        div("um-zoom",
          button("−", () => this.zoomBy(1 / 1.5), named("zoomOut")), this.factor,
          button("+", () => this.zoomBy(1.5), named("zoomIn")),
          button("1:1", () => this.moveTo(1, 0, 0), named("zoomReset", "1:1 ")))),
      this.stage, this.extra];
  }

  async load() {
    const run = ++this.run, images = this.alone ? { before: this.before } : { before: this.before, after: this.after };
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
    } else if (mode === "alone") {
      panes = [pane([first], layer(this.before))];
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
