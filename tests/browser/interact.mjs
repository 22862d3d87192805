#!/usr/bin/env node
// Opens the viewers' page in Chromium and plays steps of a person at the keyboard and pointer.
//
// out.json has the page's statistics, its log, the clipboard that it sent last, in Base64 by format, and for each resized window
// the time until a frame of its size was drawn. With --read-pattern also whether frame numbers increased, and torn pictures.
//
//   node interact.mjs --url URL --token T --steps STEPS.json [--json out.json] [--screenshot file.png] [--timeout SECONDS]
//                     [--read-pattern] [--mobile]
//
// STEPS.json is a list of steps, each an object with one key:
//   {"layout": "de"}          selects the desktop's layout
//   {"press": "KeyA"}         presses and releases a key by its KeyboardEvent.code; {"down": …} and {"up": …} do one of it
//   {"text": "日本"}          enters text as an input method does
//   {"move": [x, y]}          moves the pointer to a position of the picture, as fractions of its size
//   {"click": "left"}         presses and releases a button
//   {"drag": [[x, y], [x, y]]} moves the pointer from one position to another with the left button pressed
//   {"tap": [x, y]}           taps a position with a finger; needs --mobile
//   {"wheel": [dx, dy]}       scrolls, pixels
//   {"ask": true}             asks the viewer in control for it by the button, and waits until this page has it
//   {"grant": true}           gives control to the viewer that asks for it
//   {"listen": true}          unmutes the desktop by the button, and waits until its sound is captured
//   {"chirp": [f0, f1]}       waits until a chirp from f0 to f1 Hz was heard, and its sound is played
//   {"control": true}         waits until this page controls the desktop
//   {"cursors": [[x, y], [x, y]]}  moves between two positions until each has an image of its own as the cursor
//   {"pointer": [x, y]}       waits until the page of a viewer without control draws the cursor at this position, within 2 %
//   {"kill": true}            ends the browser without a release of what is pressed
//   {"copy": {"text/plain": "…"}}       puts a content into the browser's clipboard; of an image/png its Base64
//   {"receive": {"image/png": "…"}}     waits until the desktop's clipboard has arrived in this form
//   {"window": [w, h, scale]}  resizes the window, CSS pixels, and waits until the desktop has its size
//   {"picture": [w, h]}        waits until the picture has this size, pixels
//   {"pause": ms}             waits, for programs without a reaction that could be waited for

import { readFile, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { withBrowser } from "./chromium.mjs";
import { chirped, record } from "./sound.mjs";
import { open, report as drawn } from "./viewer.mjs";

const options = {
  url: { type: "string" }, token: { type: "string" }, steps: { type: "string" }, json: { type: "string" },
  screenshot: { type: "string" }, timeout: { type: "string", default: "240" },
  "read-pattern": { type: "boolean", default: false }, mobile: { type: "boolean", default: false },
};

/** Position in the page of a fraction of the picture. */
async function position(page, [x, y]) {
  const box = await page.locator("#screen").boundingBox();
  return [box.x + x * box.width, box.y + y * box.height];
}

/** Puts a content into the browser's clipboard. Runs in the page. */
function copy(content) {
  const bytes = (base64) => Uint8Array.from(atob(base64), (byte) => byte.charCodeAt(0));
  const items = Object.entries(content).map(([type, value]) => [type, new Blob([type === "image/png" ? bytes(value) : value], { type })]);
  return navigator.clipboard.write([new ClipboardItem(Object.fromEntries(items))]);
}

/** True once the page has received exactly this content, and a text is in the browser's clipboard. Runs in the page. */
async function received(content) {
  const { received } = window.desktopstream.clipboard;
  const text = content["text/plain"];
  const has = ([type, value]) => {
    const bytes = received?.get(type);
    return bytes && (type === "image/png" ? btoa(String.fromCharCode(...bytes)) : new TextDecoder().decode(bytes)) === value;
  };
  if (!Object.entries(content).every(has)) return false;
  return text === undefined || await navigator.clipboard.readText().catch(() => null) === text;
}

/** The content that the page sent last. Runs in the page. */
function sent() {
  const base64 = (bytes) => btoa(String.fromCharCode(...bytes));
  return Object.fromEntries([...(window.desktopstream.clipboard.seen ?? [])].map(([type, bytes]) => [type, base64(bytes)]));
}

/** Resizes the window, and resolves with the drawing of a frame that has its size. The size is within the desktop's limits. */
async function resize(page, [width, height, scale], timeout) {
  const session = await page.context().newCDPSession(page);
  const start = performance.now();
  await session.send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: scale, mobile: false });
  const size = [width, height].map((length) => 2 * Math.floor(length * scale / 2));
  const fits = ([width, height]) => {
    const screen = document.getElementById("screen");
    return screen.width === width && screen.height === height;
  };
  await page.waitForFunction(fits, size, { timeout, polling: "raf" });
  const path = await page.evaluate(() => window.desktopstream.stats().info.frame_path);
  windows.push({ size, path, ms: performance.now() - start });
}

/** CSS of the image that the page shows as the cursor, or null. Runs in the page. */
function cursorImage() {
  const { cursor } = window.desktopstream, css = document.getElementById("screen").style.cursor;
  return cursor.shape.kind === "image" && css.startsWith("image-set") ? css : null;
}

/** Moves between positions twice, longer each time, until both rounds show the same two images. */
async function cursors(page, positions, timeout) {
  const end = performance.now() + timeout;
  for (let pause = 200; ; pause *= 2) {
    const seen = [];
    for (const at of [...positions, ...positions]) {
      await STEPS.move(page, at);
      await page.waitForTimeout(pause);
      seen.push(await page.evaluate(cursorImage));
    }
    const [a, b] = seen;
    if (a && b && a !== b && seen[2] === a && seen[3] === b) return;
    if (performance.now() > end) throw new Error(`images at the positions: ${JSON.stringify(seen.map((css) => css?.slice(-40)))}`);
  }
}

/** True if the page draws the cursor at a position of the picture. Runs in the page. */
function cursorAt([x, y]) {
  const image = document.getElementById("cursor"), { shape } = window.desktopstream.cursor;
  if (image.hidden || !image.complete || !image.naturalWidth) return false;
  const screen = document.getElementById("screen").getBoundingClientRect(), box = image.getBoundingClientRect();
  const at = [box.left + shape.hotspot[0] * box.width / shape.width, box.top + shape.hotspot[1] * box.height / shape.height];
  return Math.abs((at[0] - screen.left) / screen.width - x) < 0.02 && Math.abs((at[1] - screen.top) / screen.height - y) < 0.02;
}

const STEPS = {
  layout: (page, layout) => page.selectOption("#layout", layout),
  press: async (page, code) => { await page.keyboard.press(code); await page.waitForFunction(() => !window.desktopstream.holding()); },
  down: (page, code) => page.keyboard.down(code),
  up: (page, code) => page.keyboard.up(code),
  text: (page, text) => page.keyboard.insertText(text),
  move: async (page, at) => page.mouse.move(...await position(page, at)),
  click: async (page, button) => { await page.mouse.down({ button }); await page.mouse.up({ button }); },
  drag: async (page, [from, to]) => {
    await page.mouse.move(...await position(page, from));
    await page.mouse.down();
    await page.mouse.move(...await position(page, to), { steps: 8 });
    await page.mouse.up();
  },
  tap: async (page, at) => page.touchscreen.tap(...await position(page, at)),
  ask: async (page, _, timeout) => {
    await page.waitForFunction(() => { const { control } = window.desktopstream.stats(); return control && control.controller !== null; }, null, { timeout });
    await page.focus("#control", { timeout });
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => { const { control } = window.desktopstream.stats(); return control.controller === control.you; }, null, { timeout });
    await STEPS.control(page, true, timeout);
  },
  grant: (page, _, timeout) => page.click("#grant", { timeout }),
  wheel: (page, [dx, dy]) => page.mouse.wheel(dx, dy),
  control: (page, _, timeout) => page.waitForFunction(() => document.querySelector("#screen.control") && document.activeElement?.id === "keys", null, { timeout }),
  listen: async (page, _, timeout) => {
    await page.evaluate(record);
    await page.focus("#sound", { timeout });
    await page.keyboard.press("Enter");
    await page.waitForSelector('#sound[data-state="on"]', { timeout });
  },
  chirp: async (page, [from, to], timeout) => {
    await page.waitForFunction(chirped, { from, to }, { timeout, polling: 100 });
    await page.waitForFunction(() => window.desktopstream.stats().sound?.peak > 0.02, null, { timeout, polling: 100 });
  },
  copy: (page, content) => page.evaluate(copy, content),
  receive: (page, content, timeout) => page.waitForFunction(received, content, { timeout, polling: 100 }),
  window: resize,
  cursors,
  picture: (page, [width, height], timeout) => page.waitForFunction(([w, h]) => {
    const screen = document.getElementById("screen");
    return screen.width === w && screen.height === h;
  }, [width, height], { timeout, polling: 50 }),
  pointer: (page, at, timeout) => page.waitForFunction(cursorAt, at, { timeout, polling: 50 }),
  pause: (page, ms) => page.waitForTimeout(ms),
};

const { values } = parseArgs({ options });
const windows = [];
const steps = JSON.parse(await readFile(values.steps, "utf8"));
const timeout = Number(values.timeout) * 1000;
process.exitCode = await withBrowser(async (context) => {
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  const viewer = await open(context, { url: values.url, token: values.token, readPattern: values["read-pattern"] });
  const { page } = viewer;
  await page.waitForFunction(() => window.desktopstream.stats().live, null, { timeout });
  for (const [index, step] of steps.entries()) {
    const [[name, argument]] = Object.entries(step);
    if (name === "kill") { context.browser()?.process?.()?.kill("SIGKILL"); process.exit(0); }
    if (!STEPS[name]) throw new Error(`unknown step ${name}`);
    await STEPS[name](page, argument, timeout).catch((error) => {
      throw new Error(`step ${index + 1}, ${JSON.stringify(step)}: ${error.message}`, { cause: error });
    });
  }
  if (values.screenshot) await page.screenshot({ path: values.screenshot });
  const stats = await page.evaluate(() => window.desktopstream.stats());
  const chirp = await page.evaluate(() => window.chirp ?? null);
  const { ordered, torn } = await drawn(viewer);
  const report = { stats, chirp, log: viewer.log, sent: await page.evaluate(sent), windows, ordered, torn };
  if (values.json) await writeFile(values.json, JSON.stringify(report));
  for (const line of viewer.log) console.log(line);
  return 0;
}, values.mobile ? { width: 412, height: 732, scale: 2, mobile: true } : {});
