#!/usr/bin/env node
// Measures the time from an input event in the viewers' page to the first drawn frame that shows its effect.
//
//   node latency.mjs --url URL --token T --event key|click --samples N --json out.json [--timeout SECONDS]
//
// The desktop shows a window that changes its brightness at each press of the space bar or of the left button. Times are
// those of the page: from the event's time stamp to the end of drawing. A sample without a change within --timeout fails
// the run. out.json: {"ms": [...], "stats": {...}}.

import { writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { withBrowser } from "./chromium.mjs";
import { open } from "./viewer.mjs";

const options = {
  url: { type: "string" }, token: { type: "string" }, event: { type: "string" }, samples: { type: "string", default: "100" },
  json: { type: "string" }, timeout: { type: "string", default: "60" },
};
/** Difference of brightness, of 255, that is a change. */
const CONTRAST = 96;
/** Bounds of the random pause between samples, so that they meet all phases of the desktop's frames, ms. */
const PAUSE = [120, 320];

/** Init script: records the time of the last press in `window.pressed`, and samples the picture's centre when asked. */
function observe() {
  const pixel = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const context = pixel.getContext("2d", { willReadFrequently: true, alpha: false });
  window.brightness = () => {
    const screen = document.getElementById("screen");
    context.drawImage(screen, screen.width / 2, screen.height / 2, 2, 2, 0, 0, 1, 1);
    return context.getImageData(0, 0, 1, 1).data[1];
  };
  const press = (event) => { window.pressed ??= event.timeStamp; };
  window.addEventListener("keydown", press, { capture: true });
  window.addEventListener("pointerdown", press, { capture: true });
  window.desktopstream = { onframe: () => window.onpicture?.() };
}

/** Resolves with the time from the next press to the drawing of a frame that differs from the current one, ms. */
function change({ contrast, timeout }) {
  const before = window.brightness();
  window.pressed = undefined;
  window.change = new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no change of brightness ${before} within ${timeout} ms`)), timeout);
    window.onpicture = () => {
      if (window.pressed === undefined || Math.abs(window.brightness() - before) < contrast) return;
      clearTimeout(timer);
      window.onpicture = null;
      resolve(performance.now() - window.pressed);
    };
  });
  window.change.catch(() => {});
}

const { values } = parseArgs({ options });
const [samples, timeout] = [Number(values.samples), Number(values.timeout) * 1000];
const trigger = {
  key: async (page) => { await page.keyboard.down("Space"); await page.keyboard.up("Space"); },
  click: async (page) => { await page.mouse.down(); await page.mouse.up(); },
}[values.event];
if (!trigger || !(samples > 0)) throw new Error("usage: see the comment at the top of the file");
process.exitCode = await withBrowser(async (context) => {
  await context.addInitScript(observe);
  const { page } = await open(context, { url: values.url, token: values.token, hooks: false });
  await page.waitForFunction(() => window.desktopstream.stats().live, null, { timeout });
  await page.waitForFunction(() => document.querySelector("#screen.control"), null, { timeout });
  const box = await page.locator("#screen").boundingBox();
  await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
  const sample = async () => {
    await page.waitForTimeout(PAUSE[0] + Math.random() * (PAUSE[1] - PAUSE[0]));
    await page.evaluate(change, { contrast: CONTRAST, timeout });
    await trigger(page);
    return page.evaluate(() => window.change);
  };
  // The first click gives the window the focus.
  await page.mouse.down();
  await page.mouse.up();
  const ms = [];
  for (let i = 0; i < samples; i++) ms.push(await sample());
  await writeFile(values.json, JSON.stringify({ ms, stats: await page.evaluate(() => window.desktopstream.stats()) }));
  return 0;
});
