// The stand-alone viewers' server (sidecar/viewers/examples/viewer.rs) as a child process.

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");

/** Path of the example: $VIEWER_EXAMPLE, else in cargo's target directory. */
export function binary() {
  const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
  const places = [process.env.VIEWER_EXAMPLE, ...["release", "debug"].map((profile) => join(target, profile, "examples/viewer"))];
  const found = places.find((path) => path && existsSync(path));
  if (!found) throw new Error("example viewer not found: run `cargo build -p viewers --example viewer`, or set VIEWER_EXAMPLE");
  return found;
}

/** Starts the server and waits until it listens. `stop` waits until it has exited. */
export async function start(...args) {
  const listen = args.includes("--listen") ? [] : ["--listen", "127.0.0.1:0"];
  const child = spawn(binary(), [...listen, ...args], { stdio: ["ignore", "pipe", "inherit"] });
  const exited = new Promise((resolve) => child.once("exit", resolve));
  const url = await new Promise((resolve, reject) => {
    let text = "";
    const timer = setTimeout(() => { child.kill("SIGKILL"); reject(new Error("example viewer did not start within 20 s")); }, 20_000);
    child.stdout.on("data", (data) => {
      text += data;
      const found = text.match(/http:\/\/\S+/);
      if (found) { clearTimeout(timer); resolve(found[0]); }
    });
    child.once("exit", (code) => { clearTimeout(timer); reject(new Error(`example viewer exited with ${code}`)); });
  });
  const stop = async (signal = "SIGINT") => {
    child.kill(signal);
    const timer = setTimeout(() => child.kill("SIGKILL"), 5_000);
    await exited;
    clearTimeout(timer);
  };
  return { url, host: new URL(url).host, stop };
}
