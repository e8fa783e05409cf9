// The page: loads a policy file, shows what it says of itself, proves it, and lets it balance the pole.
//
// ?model=URL      another policy file (default: what `make example` writes)
// ?vectors=URL    its test vectors (default: the file NAME.vectors.json beside it)
// ?speed=NUMBER   how much faster than real time, such as 0.2 or 10

import * as cartpole from "./cartpole.js";
import { readRecord } from "./metadata.js";
import { selfTest } from "./selftest.js";
import { Stage } from "./stage.js";

const RUNTIME = "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
const NUDGE = 0.5; // radians per second that one click gives to the pole
const PAUSE = 900; // milliseconds between two episodes
const BARS = [
  { label: "Cart position", unit: "m", limit: cartpole.X_LIMIT },
  { label: "Cart velocity", unit: "m/s", limit: 2 },
  { label: "Pole angle", unit: "rad", limit: cartpole.ANGLE_LIMIT },
  { label: "Pole angular velocity", unit: "rad/s", limit: 2 },
];

const query = new URLSearchParams(location.search);
const modelUrl = new URL(query.get("model") ?? "../../runs/cartpole/best_model.onnx", location.href);
const vectorsUrl = new URL(query.get("vectors") ?? modelUrl.href.replace(/\.onnx$/, ".vectors.json"), location.href);
const speed = Number(query.get("speed")) || 1;
const byId = (id) => document.getElementById(id);
const bars = BARS.map(makeBar);

/** What keeps the page from working, and the command that helps. */
class Problem extends Error {
  constructor(title, text, command) {
    super(text);
    Object.assign(this, { title, command });
  }
}

async function main() {
  try {
    const ort = await loadRuntime();
    const bytes = await loadPolicy();
    const record = readRecord(bytes);
    showFacts(record, bytes.length);
    const session = await ort.InferenceSession.create(bytes);
    await showSelfTest(ort, session, record);
    checkItSteersCartPole(record);
    byId("message").hidden = true;
    new Show(ort, session).begin();
  } catch (error) {
    showProblem(error instanceof Problem ? error : new Problem("This did not work", String(error.message ?? error)));
  }
}

async function loadRuntime() {
  let ort;
  try {
    ort = await import(RUNTIME);
  } catch {
    const text = "ONNX Runtime Web is missing. In the root of the repository, run";
    throw new Problem("One step is left", text, "npm ci --prefix examples/web");
  }
  ort.env.wasm.numThreads = 1; // a policy is too small for more, and more would need special headers from the server
  byId("runtime").textContent = `ONNX Runtime Web ${ort.env.versions.web}, WebAssembly`;
  return ort;
}

async function loadPolicy() {
  // Never from the cache: the file is replaced at every new best.
  const response = await fetch(modelUrl, { cache: "no-cache" }).catch(() => null);
  if (!response?.ok) {
    const text = `There is nothing at ${modelUrl.href}. Train a policy, which takes less than a minute:`;
    throw new Problem("There is no policy yet", text, "make example");
  }
  return new Uint8Array(await response.arrayBuffer());
}

function checkItSteersCartPole(record) {
  const [input, ...others] = record?.inputs ?? [];
  const steers = input?.name === "obs" && input.shape.join() === "batch,4" && !others.length;
  const { type, n } = record?.action_space ?? {};
  if (!steers || type !== "Discrete" || n !== 2) {
    const text = "It takes other observations or gives other actions. What it says of itself, and its test, are below.";
    throw new Problem("This policy was not made for the cart and the pole", text);
  }
}

function showProblem({ title, message, command }) {
  const parts = [element("h2", title), element("p", message)];
  if (command) parts.push(element("pre", command), element("p", "then load this page again."));
  byId("message").replaceChildren(...parts);
  byId("message").hidden = false;
  for (const button of document.querySelectorAll("button")) button.disabled = true;
}

/** The record in the file, as a list of facts; and what was measured when it was written. */
function showFacts(record, size) {
  const { training, normalization, provenance, cross_check: check } = record ?? {};
  const versions = provenance?.versions ?? {};
  const evaluation = training?.evaluation;
  const facts = {
    File: decodeURIComponent(modelUrl.pathname.split("/").at(-1)),
    Algorithm: record?.algorithm,
    [evaluation?.role === "last" ? "Last mean reward before" : "Mean reward"]: evaluation?.mean_reward?.toFixed(1),
    "Trained for": training && `${grouped(training.num_timesteps)} timesteps`,
    Size: `${(size / 1024).toFixed(1)} KB`,
    Normalization: normalization && (normalization.status === "folded" ? "in the graph" : normalization.status),
    Graph: record && `opset ${record.opset_version}, IR ${record.ir_version}`,
    "Stable-Baselines3": versions["stable-baselines3"],
  };
  for (const [name, value] of Object.entries(facts)) {
    if (value === undefined) continue;
    const group = document.createElement("div");
    group.append(element("dt", name), element("dd", value));
    byId("facts").append(group);
  }
  byId("file").hidden = byId("proof").hidden = false;
  if (check) {
    const text =
      `${grouped(check.n_observations)} observations against Stable-Baselines3's own predict: ` +
      `largest difference ${difference(check.max_difference)}`;
    showProof("proven", "good", "In Python, when it was written", text);
  } else {
    showProof("proven", "", "No record in the file", "sb3_clanker did not write it, so nothing is known of it.");
  }
}

async function showSelfTest(ort, session, record) {
  const title = "In this browser, just now";
  const response = await fetch(vectorsUrl, { cache: "no-cache" }).catch(() => null);
  if (!response?.ok) {
    const text = "There are no test vectors beside the file. ExportOptions(test_vectors=16) writes them.";
    return showProof("selftest", "", "Not tested in this browser", text);
  }
  const { nCases, maxDifference, failure } = await selfTest(ort, session, await response.json(), record?.digest);
  if (failure !== null) return showProof("selftest", "bad", `${title}: wrong`, failure);
  const text = `${nCases} of ${nCases} test vectors right: largest difference ${difference(maxDifference)}`;
  return showProof("selftest", "good", title, text);
}

function showProof(id, verdict, title, text) {
  const mark = element("i", { good: "✓", bad: "✕" }[verdict] ?? "–");
  mark.ariaHidden = "true";
  byId(id).className = `proof ${verdict}`;
  byId(id).replaceChildren(mark, element("b", title), element("p", text));
}

/** The cart, the pole, and the policy between them. */
class Show {
  #ort;
  #session;
  #stage = new Stage(byId("scene"), byId("pushes"));
  #state = cartpole.start();
  #before = this.#state;
  #pushes = [];
  #steps = 0;
  #episodes = { complete: 0, fallen: 0 };
  #rest = 0; // milliseconds until the next episode begins
  #budget = 0; // milliseconds of simulated time that are due
  #last = performance.now();
  #running = true;
  #latency = 0;
  #written = 0; // when the figures were last written

  constructor(ort, session) {
    this.#ort = ort;
    this.#session = session;
  }

  begin() {
    byId("scene").addEventListener("pointerdown", (event) => {
      this.#nudge(event.offsetX < this.#stage.poleX(this.#state) ? 1 : -1);
    });
    byId("nudge-left").addEventListener("click", () => this.#nudge(-1));
    byId("nudge-right").addEventListener("click", () => this.#nudge(1));
    byId("run").addEventListener("click", () => this.#run(!this.#running));
    document.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") this.#nudge(-1);
      if (event.key === "ArrowRight") this.#nudge(1);
      if (event.key === " " && !(event.target instanceof HTMLButtonElement)) {
        event.preventDefault();
        this.#run(!this.#running);
      }
    });
    this.#run(!matchMedia("(prefers-reduced-motion: reduce)").matches);
    requestAnimationFrame((now) => this.#frame(now));
  }

  #run(running) {
    this.#running = running;
    byId("run").textContent = running ? "Pause" : "Run";
  }

  /** Somebody disturbs the pole: it turns faster at once. */
  #nudge(direction) {
    if (this.#rest > 0) return;
    const [x, xDot, theta, thetaDot] = this.#state;
    this.#state = [x, xDot, theta, thetaDot + direction * NUDGE];
    this.#stage.ripple(direction);
  }

  async #frame(now) {
    // A page in the background gets no frames; it does not catch up afterwards.
    const passed = Math.min(now - this.#last, 100) * speed * (this.#running ? 1 : 0);
    this.#last = now;
    if (this.#rest > 0) {
      this.#rest -= passed;
      if (this.#rest <= 0) this.#reset();
    } else {
      this.#budget += passed;
      while (this.#rest <= 0 && this.#budget >= 1000 * cartpole.TAU) {
        this.#budget -= 1000 * cartpole.TAU;
        await this.#step();
      }
    }
    this.#show(now);
    requestAnimationFrame((next) => this.#frame(next));
  }

  async #step() {
    const observation = new this.#ort.Tensor("float32", Float32Array.from(this.#state), [1, 4]);
    const began = performance.now();
    const { action } = await this.#session.run({ obs: observation });
    const took = performance.now() - began;
    this.#latency = this.#latency ? this.#latency + 0.02 * (took - this.#latency) : took;

    this.#before = this.#state;
    this.#state = cartpole.step(this.#state, action.data[0]);
    this.#pushes.push(action.data[0]);
    if (this.#pushes.length > 100) this.#pushes.shift();
    this.#steps += 1;
    if (cartpole.fallen(this.#state)) this.#end("fallen", `Fell after ${this.#steps} steps`);
    else if (this.#steps === cartpole.EPISODE_STEPS) this.#end("complete", `Balanced for ${this.#steps} steps`);
  }

  #end(outcome, text) {
    this.#episodes[outcome] += 1;
    this.#rest = PAUSE;
    this.#budget = 0;
    this.#before = this.#state;
    byId("outcome").textContent = text;
    byId("outcome").className = `outcome ${outcome === "fallen" ? "bad" : ""}`;
    byId("outcome").hidden = false;
    const { complete, fallen } = this.#episodes;
    byId("episodes").textContent = `Episodes: ${complete} complete, ${fallen} fallen`;
  }

  #reset() {
    this.#rest = 0;
    this.#steps = 0;
    this.#state = this.#before = cartpole.start();
    this.#stage.clear();
    byId("outcome").hidden = true;
  }

  #show(now) {
    // Between two states 20 ms apart, so that the motion is smooth at any rate of the screen.
    const part = this.#budget / (1000 * cartpole.TAU);
    const between = this.#before.map((value, i) => value + (this.#state[i] - value) * part);
    this.#stage.draw(between, this.#pushes);
    const still = !this.#running || this.#rest > 0;
    const write = still || now - this.#written > 100; // digits that change more often cannot be read
    if (write) this.#written = now;
    bars.forEach((show, i) => show(this.#state[i], write));
    byId("steps").textContent = this.#steps;
    byId("progress").style.transform = `scaleX(${this.#steps / cartpole.EPISODE_STEPS})`;
    const milliseconds = this.#latency.toFixed(2);
    byId("runtime").textContent =
      `ONNX Runtime Web ${this.#ort.env.versions.web}, WebAssembly: ${milliseconds} ms for one action`;
  }
}

/** A bar that grows from its middle to either side; returns what shows a value in it. */
function makeBar({ label, unit, limit }) {
  const value = document.createTextNode("\u2013");
  const cell = document.createElement("dd");
  cell.append(value, element("span", unit));
  const fill = document.createElement("i");
  const bar = document.createElement("div");
  bar.className = "bar";
  bar.append(fill);
  const group = document.createElement("div");
  group.append(element("dt", label), cell, bar);
  byId("bars").append(group);
  return (number, write) => {
    if (write) value.data = signed(number);
    fill.style.transform = `scaleX(${Math.max(-1, Math.min(1, number / limit))})`;
  };
}

function element(tag, text) {
  const node = document.createElement(tag);
  node.textContent = text;
  return node;
}

const grouped = (number) => number.toLocaleString("en-GB");
const signed = (number) => (number < 0 ? "\u2212" : "+") + Math.abs(number).toFixed(3);

/** A difference as it is read: 0, or 2.4 × 10⁻⁷. */
function difference(number) {
  if (number === 0) return "0";
  const [digits, exponent] = number.toExponential(1).split("e");
  const raised = exponent.replace("+", "").replace("-", "⁻").replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]);
  return `${digits}\u00a0×\u00a010${raised}`;
}

main();
