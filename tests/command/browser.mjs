// Opens a page of ours in headless Chromium and fails on whatever a reader would trip over:
//   node browser.mjs PAGE TOOLS SCREENSHOTS NAME EPOCHS
// TOOLS holds node_modules with puppeteer-core and axe-core.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [page, tools, screenshots, name, epochs] = process.argv.slice(2);
const require = createRequire(join(resolve(tools), "package.json"));
const puppeteer = require("puppeteer-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const url = pathToFileURL(resolve(page)).href;
const problems = [];
const check = (holds, what) => holds || problems.push(what);

const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
});
try {
  for (const scheme of ["light", "dark"]) {
    for (const width of [390, 1440]) {
      await look(scheme, width);
    }
  }
} finally {
  await browser.close();
}
if (problems.length) {
  console.error(problems.join("\n"));
  process.exit(1);
}

async function look(scheme, width) {
  const where = `${name}, ${scheme}, ${width} px`;
  const tab = await browser.newPage();
  await tab.setViewport({ width, height: 900 });
  await tab.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  tab.on("console", (line) => check(!["error", "warning"].includes(line.type()), `${where}: console: ${line.text()}`));
  tab.on("pageerror", (error) => problems.push(`${where}: ${error}`));
  tab.on("dialog", (dialog) => { problems.push(`${where}: a dialog: ${dialog.message()}`); dialog.dismiss(); });
  tab.on("request", (request) => check(request.url() === url || request.url().startsWith("data:"),
    `${where}: asks for ${request.url()}`));
  await tab.goto(url, { waitUntil: "load" });
  const found = await tab.evaluate(async () => {
    const images = [...document.images];
    await Promise.all(images.map((image) => image.decode().catch(() => {})));
    const visible = (element) => !element.closest("details:not([open])") || element.tagName === "SUMMARY";
    return {
      images: images.length,
      broken: images.filter((image) => image.naturalWidth === 0).length,
      scrolls: document.documentElement.scrollWidth - document.documentElement.clientWidth,
      wide: [...document.querySelectorAll("main *")].filter((element) => !element.closest(".scroll") &&
        !element.closest("svg") && visible(element) &&
        element.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map((e) => e.outerHTML.slice(0, 80)),
      points: document.querySelectorAll(".curves svg circle").length,
      controls: [...document.querySelectorAll("a[href], summary, [tabindex='0']")].filter(visible).length,
      scripts: document.scripts.length,
    };
  });
  check(found.broken === 0, `${where}: ${found.broken} of ${found.images} pictures are not shown`);
  check(found.scrolls <= 0, `${where}: the page is ${found.scrolls} px too wide`);
  check(found.wide.length === 0, `${where}: stands out: ${found.wide.slice(0, 3)}`);
  check(epochs === "0" || found.points === 4 * epochs, `${where}: ${found.points} points of ${epochs} epochs`);
  check(found.scripts === 0, `${where}: ${found.scripts} scripts`);
  await tabThrough(tab, found.controls, where);
  // Everything is open when contrast and roles are judged.
  await tab.evaluate(() => document.querySelectorAll("details").forEach((details) => { details.open = true; }));
  await tab.evaluate(axe);
  const { violations, passes } = await tab.evaluate(() => axe.run());
  for (const violation of violations) {
    problems.push(`${where}: axe: ${violation.id}: ${violation.help}: ${violation.nodes.slice(0, 3).map((n) => n.html)}`);
  }
  await tab.evaluate(() => document.querySelectorAll("details").forEach((details) => { details.open = false; }));
  await tab.evaluate(() => { document.activeElement?.blur(); window.scrollTo(0, 0); });
  const path = join(screenshots, `report-${name}-${scheme}-${width}.png`);
  await tab.screenshot({ path, fullPage: width === 390 });
  console.log(`${where}: ${found.images} pictures, ${found.controls} controls, ${found.points} points, ` +
    `${passes.length} rules of axe passed; ${path}`);
  await tab.close();
}

// The keyboard reaches every control, in turn.
async function tabThrough(tab, controls, where) {
  const reached = new Set();
  for (let press = 0; press < controls + 5; press++) {
    await tab.keyboard.press("Tab");
    const place = await tab.evaluate(() => {
      const all = [...document.querySelectorAll("a[href], summary, [tabindex='0']")];
      return all.indexOf(document.activeElement);
    });
    if (place >= 0) reached.add(place);
  }
  check(reached.size >= controls, `${where}: the keyboard reaches ${reached.size} of ${controls} controls`);
}
