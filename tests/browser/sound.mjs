// Records the sound that a page decodes.

/** Records the time, level and frequency of each chunk in `window.heard`. Runs in the page, before sound is unmuted. */
export function record() {
  window.heard = [];
  window.desktopstream.onsound = ({ time, lead, channels: [samples], start }) => {
    let energy = 0, crossings = [];
    for (let i = 0; i < samples.length; i++) {
      energy += samples[i] ** 2;
      // Position of a rising zero crossing, between samples.
      if (i && samples[i - 1] < 0 && samples[i] >= 0) crossings.push(i - samples[i] / (samples[i] - samples[i - 1]));
    }
    const periods = crossings.length - 1;
    window.heard.push({
      time, lead, start, rms: Math.sqrt(energy / samples.length),
      hz: periods > 0 ? 48000 * periods / (crossings.at(-1) - crossings[0]) : 0,
    });
  };
}

/** True once `window.heard` has a chirp: a run of loud chunks whose frequency rises from `from` to `to` Hz. Runs in the page. */
export function chirped({ from, to }) {
  const near = (hz, wanted) => Math.abs(hz - wanted) < (to - from) / 5;
  const loud = window.heard.filter(({ rms }) => rms > 0.05);
  for (let i = 0; i < loud.length; i++) {
    if (!near(loud[i].hz, from)) continue;
    let last = i;
    while (last + 1 < loud.length && !loud[last + 1].start && loud[last + 1].hz > loud[last].hz - (to - from) / 10) last++;
    if (near(loud[last].hz, to)) { window.chirp = loud[i]; return true; }
  }
  return false;
}
