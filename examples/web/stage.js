// Draws the cart and the pole, to scale, and the strip of pushes; sharp on every screen, in the page's own colours.

import { ANGLE_LIMIT, POLE_LENGTH, X_LIMIT } from "./cartpole.js";

const MARGIN = 0.26; // metres beyond the limits of the track
const CART = { width: 0.46, height: 0.23, wheel: 0.06, pivot: 0.15 }; // metres; height and pivot stand on the wheels
const TRAIL = 60; // positions of the pole's tip
const PUSHES = 100; // two seconds

/** A canvas in CSS pixels, whatever the screen's density and the canvas's size are now. */
function prepare(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const density = window.devicePixelRatio || 1;
  const [w, h] = [Math.round(width * density), Math.round(height * density)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const context = canvas.getContext("2d");
  context.setTransform(density, 0, 0, density, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["paper", "card", "ink", "soft", "line", "faint", "accent"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

export class Stage {
  #canvas;
  #strip;
  #colours = colours();
  #font = getComputedStyle(document.body).fontFamily;
  #trail = [];
  #force = 0; // smoothed: left and right alternate too fast to be seen
  #ripples = [];

  constructor(canvas, strip) {
    this.#canvas = canvas;
    this.#strip = strip;
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (this.#colours = colours()));
  }

  /** Forget what was drawn: a new episode begins. */
  clear() {
    this.#trail = [];
    this.#force = 0;
  }

  /** Mark that somebody nudged the pole: to the left, -1, or to the right, 1. */
  ripple(direction) {
    this.#ripples.push({ direction, since: performance.now() });
  }

  /** Where the pole's middle is on the canvas, in CSS pixels from its left edge. */
  poleX([x, , theta]) {
    const { scale, middle } = this.#measure(this.#canvas.clientWidth, this.#canvas.clientHeight);
    return middle + (x + (POLE_LENGTH / 2) * Math.sin(theta)) * scale;
  }

  /** Draw a state, and the pushes that led to it, the newest last: 1 to the right, 0 to the left. */
  draw(state, pushes) {
    this.#drawScene(state, pushes.at(-1));
    this.#drawPushes(pushes);
  }

  #measure(width, height) {
    const scale = width / (2 * (X_LIMIT + MARGIN)); // pixels in a metre
    const tall = (POLE_LENGTH + CART.wheel + CART.pivot) * scale;
    return { scale, middle: width / 2, ground: Math.round((height + tall) / 2 + 4) };
  }

  #drawScene([x, , theta], push) {
    const { context: c, width, height } = prepare(this.#canvas);
    const { scale, middle, ground } = this.#measure(width, height);
    const { card, ink, soft, line, faint, accent } = this.#colours;
    const cartX = middle + x * scale;
    const pivotY = ground - (CART.wheel + CART.pivot) * scale;
    const tip = [cartX + Math.sin(theta) * POLE_LENGTH * scale, pivotY - Math.cos(theta) * POLE_LENGTH * scale];
    c.lineCap = c.lineJoin = "round";

    // The track, its limits and its metres
    const small = Math.max(10, Math.min(12, width / 50));
    c.font = `${small}px ${this.#font}`;
    c.textAlign = "center";
    c.textBaseline = "top";
    stroke(c, line, 2, [middle - X_LIMIT * scale, ground], [middle + X_LIMIT * scale, ground]);
    for (let i = -4; i <= 4; i += 1) {
      const at = middle + (i / 4) * X_LIMIT * scale;
      const limit = Math.abs(i) === 4;
      stroke(c, limit ? soft : line, limit ? 2 : 1.5, [at, ground - (limit ? 12 : 0)], [at, ground + 6]);
      c.fillStyle = soft;
      const label = ["0 m", "1.2", "2.4"][Math.abs(i) / 2];
      if (label) c.fillText((i < 0 ? "\u2212" : "") + label, at, ground + 12);
    }

    // The angle within which the pole counts as balanced
    const reach = POLE_LENGTH * scale * 1.08;
    c.beginPath();
    c.moveTo(cartX, pivotY);
    c.arc(cartX, pivotY, reach, -Math.PI / 2 - ANGLE_LIMIT, -Math.PI / 2 + ANGLE_LIMIT);
    c.closePath();
    c.fillStyle = faint;
    c.fill();
    c.fillStyle = soft;
    c.textAlign = "left";
    c.textBaseline = "middle";
    const side = cartX + Math.sin(ANGLE_LIMIT) * reach;
    c.fillText("12°", side + 7, pivotY - Math.cos(ANGLE_LIMIT) * reach + 4);

    // Where the tip has been
    this.#trail.push([...tip]);
    if (this.#trail.length > TRAIL) this.#trail.shift();
    this.#trail.slice(1).forEach((point, i) => {
      c.globalAlpha = (0.45 * i) / TRAIL;
      stroke(c, accent, 2.5, this.#trail[i], point);
    });
    c.globalAlpha = 1;

    // The force on the cart
    this.#force += 0.12 * ((push === undefined ? 0 : 2 * push - 1) - this.#force);
    const length = this.#force * 0.75 * scale;
    if (Math.abs(length) > 5) {
      const y = ground - (CART.wheel + CART.height / 2) * scale;
      const from = cartX + Math.sign(length) * (CART.width / 2 + 0.07) * scale;
      const head = Math.sign(length) * 6;
      stroke(c, soft, 2, [from, y], [from + length, y]);
      stroke(c, soft, 2, [from + length - head, y - 5], [from + length, y], [from + length - head, y + 5]);
    }

    // The cart and the pole
    const [w, h, r] = [CART.width * scale, CART.height * scale, CART.wheel * scale];
    c.fillStyle = ink;
    c.beginPath();
    c.roundRect(cartX - w / 2, ground - r - h, w, h, Math.min(8, h / 3));
    c.fill();
    for (const wheel of [-0.28, 0.28]) disc(c, [cartX + wheel * w, ground - r], r, ink, card);
    const thick = Math.max(5, 0.055 * scale);
    stroke(c, accent, thick, [cartX, pivotY], tip);
    disc(c, [cartX, pivotY], thick * 0.28, card);

    this.#drawRipples(c, tip, accent);
  }

  /** A ring that grows and fades at the tip, and a stroke in the direction of the nudge. */
  #drawRipples(c, tip, accent) {
    const now = performance.now();
    this.#ripples = this.#ripples.filter(({ since }) => now - since < 500);
    for (const { direction, since } of this.#ripples) {
      const part = (now - since) / 500;
      c.globalAlpha = 1 - part;
      c.strokeStyle = accent;
      c.lineWidth = 2;
      c.beginPath();
      c.arc(...tip, 6 + 22 * part, 0, 2 * Math.PI);
      c.stroke();
      const at = tip[0] + direction * (16 + 26 * part);
      stroke(c, accent, 2, [at - direction * 6, tip[1] - 6], [at, tip[1]], [at - direction * 6, tip[1] + 6]);
    }
    c.globalAlpha = 1;
  }

  #drawPushes(pushes) {
    const { context: c, width, height } = prepare(this.#strip);
    const { accent, ink, line } = this.#colours;
    const middle = height / 2;
    stroke(c, line, 1, [0, middle], [width, middle]);
    const gap = width / PUSHES;
    pushes.slice(-PUSHES).forEach((push, i, shown) => {
      c.fillStyle = push ? accent : ink;
      const x = width - (shown.length - i) * gap;
      c.fillRect(x, push ? 3 : middle + 3, Math.max(1, gap * 0.6), middle - 6);
    });
  }
}

function stroke(c, colour, width, first, ...others) {
  c.strokeStyle = colour;
  c.lineWidth = width;
  c.beginPath();
  c.moveTo(...first);
  for (const point of others) c.lineTo(...point);
  c.stroke();
}

function disc(c, [x, y], radius, colour, rim) {
  c.beginPath();
  c.arc(x, y, radius, 0, 2 * Math.PI);
  c.fillStyle = colour;
  c.fill();
  if (rim) {
    c.strokeStyle = rim;
    c.lineWidth = 1.5;
    c.stroke();
  }
}
