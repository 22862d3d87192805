// Runs Chromium headless with a temporary profile and without background network traffic.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
  "--disable-features=WebRtcHideLocalIpsWithMdns", "--autoplay-policy=no-user-gesture-required",
  // Pages in the background run like those in the foreground.
  "--disable-backgrounding-occluded-windows", "--disable-renderer-backgrounding",
];

/** Runs `use(context)` in a browser and closes it afterwards, also on errors. */
export async function withBrowser(use, { width = 1280, height = 760, scale = 1, mobile = false } = {}) {
  const profile = await mkdtemp(join(tmpdir(), "desktopstream-chromium-"));
  let context;
  try {
    context = await chromium.launchPersistentContext(profile, {
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      headless: true,
      args: FLAGS,
      viewport: { width, height },
      deviceScaleFactor: scale,
      hasTouch: mobile,
      timeout: 60_000,
    });
    return await use(context);
  } finally {
    await context?.close().catch(() => {});
    await rm(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}
