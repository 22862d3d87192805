// Reads the frame number from a picture of the test pattern: 16 x 9 cells, rows 0 and 1 the number in binary, rows 7
// and 8 its complement. Crate encode/numbered defines the pattern.

/** Init script: defines `window.readNumber(image)`. */
export function reading() {
  const cells = Object.assign(document.createElement("canvas"), { width: 16, height: 9 });
  const context = cells.getContext("2d", { willReadFrequently: true, alpha: false });
  context.imageSmoothingEnabled = false;

  function row(pixels, y) {
    let bits = 0;
    for (let x = 0; x < 16; x++) {
      const at = (y * 16 + x) * 4;
      const luma = 0.2126 * pixels[at] + 0.7152 * pixels[at + 1] + 0.0722 * pixels[at + 2];
      bits = bits * 2 + (luma >= 128 ? 1 : 0);
    }
    return bits;
  }

  /** The frame number; null if the rows and their complement disagree. */
  window.readNumber = (image) => {
    // Scaled to 16 x 9 without smoothing, each pixel is the centre of a cell.
    context.drawImage(image, 0, 0, 16, 9);
    const pixels = context.getImageData(0, 0, 16, 9).data;
    const top = row(pixels, 0) * 65536 + row(pixels, 1);
    const bottom = row(pixels, 7) * 65536 + row(pixels, 8);
    return top === (0xffffffff - bottom) ? top : null;
  };
}

/** Init script, after `reading`: records every drawn frame in `window.drawn`. */
export function watch({ readPattern, limit }) {
  window.drawn = [];
  window.torn = 0;
  const onframe = ({ seq, t, flags, latency, server, transit, decode }) => {
    const frame = {
      seq, t: +t.toFixed(3), repeat: !!(flags & 2), backlog: !!(flags & 8),
      // Time from capture to drawing, and its parts: to sending, to reception, to the decoded picture.
      latency_ms: latency, server_ms: server, transit_ms: transit, decode_ms: decode,
    };
    if (readPattern) {
      frame.number = window.readNumber(document.getElementById("screen"));
      if (frame.number === null) window.torn++;
    }
    if (window.drawn.length < limit) window.drawn.push(frame);
  };
  window.desktopstream = { onframe };
}
