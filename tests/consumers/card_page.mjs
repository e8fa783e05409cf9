// Looks at a policy card in Chromium, in the light, in the dark and on a phone: node card_page.mjs CHROMIUM FILE
// Prints as JSON what was asked for beside the page itself, the errors, and how far each width is exceeded.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(new URL("../../examples/web/package.json", import.meta.url));
const { chromium } = require("playwright-core");

const [executablePath, file] = process.argv.slice(2);
const args = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"];
const browser = await chromium.launch({ executablePath, args });
try {
  const url = pathToFileURL(file).href;
  const page = await browser.newPage();
  const asked = [];
  const errors = [];
  page.on("request", (request) => asked.push(request.url()));
  page.on("console", (message) => errors.push(message.text()));
  page.on("pageerror", (error) => errors.push(error.message));
  const seen = {};
  for (const [name, width, colorScheme] of [["light", 900, "light"], ["dark", 900, "dark"], ["phone", 360, "light"]]) {
    await page.setViewportSize({ width, height: 800 });
    await page.emulateMedia({ colorScheme });
    await page.goto(url);
    seen[name] = await page.evaluate(() => ({
      excess: document.documentElement.scrollWidth - innerWidth,
      paper: getComputedStyle(document.body).backgroundColor,
      ink: getComputedStyle(document.querySelector("svg path, svg rect")).stroke,
    }));
  }
  const others = asked.filter((each) => each !== url && !each.startsWith("data:"));
  console.log(JSON.stringify({ others, errors, seen }));
} finally {
  await browser.close();
}
