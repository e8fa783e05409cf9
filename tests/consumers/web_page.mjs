// Looks at a web page in Chromium: node web_page.mjs CHROMIUM URL SELECTOR [FOLDER]
// Waits for SELECTOR, then prints as JSON the text of every element with an id, the errors, and the origins asked.
// With FOLDER it also nudges the pole, and takes pictures there.

import { createRequire } from "node:module";

const require = createRequire(new URL("../../examples/web/package.json", import.meta.url));
const { chromium } = require("playwright-core");

const [executablePath, url, selector, folder] = process.argv.slice(2);
const args = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"];
const browser = await chromium.launch({ executablePath, args });
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, deviceScaleFactor: 2 });
  const errors = [];
  const origins = new Set();
  page.on("pageerror", (error) => errors.push(error.message));
  page.on("request", (request) => origins.add(new URL(request.url()).origin));
  // Every episode begins alike, as in a seeded environment.
  await page.addInitScript(() => (Math.random = () => 0.7));
  await page.goto(url);
  await page.waitForSelector(selector);
  if (folder) {
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      await page.screenshot({ path: `${folder}/web-${colorScheme}.png` });
    }
  }
  const text = await page.$$eval("[id]", (all) => Object.fromEntries(all.map((one) => [one.id, one.innerText ?? ""])));
  const nudged = folder ? await nudge(page, url.split("?")[0]) : null;
  console.log(JSON.stringify({ text, errors, origins: [...origins], nudged }));
} finally {
  await browser.close();
}

/** The pole's angular velocity as the page shows it, before and after a click to the left of the pole. */
async function nudge(page, atItsOwnSpeed) {
  await page.goto(atItsOwnSpeed); // where an episode lasts long enough to be paused within it
  await page.waitForSelector("#message[hidden]", { state: "attached" });
  await page.click("#run"); // pauses
  const velocities = [];
  for (const click of [false, true]) {
    if (click) await page.click("#scene", { position: { x: 20, y: 40 } });
    velocities.push(await page.evaluate(angularVelocity));
  }
  return velocities;
}

/** In the page: the figure that it shows three frames from now. */
async function angularVelocity() {
  for (let i = 0; i < 3; i += 1) await new Promise(requestAnimationFrame);
  const figure = document.querySelector("#bars > div:nth-child(4) dd").innerText;
  return Number.parseFloat(figure.replace("\u2212", "-"));
}
