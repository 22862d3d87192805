// Reads the test pattern's frame number from a picture. encode/numbered has the definition: 16 x 9
// cells, rows 0 and 1 the number in binary, rows 7 and 8 its complement.

/** Runs inside the page, before its own script: gives it `readNumber(image)`. */
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

  /** The number, or null when top and bottom disagree. */
  window.readNumber = (image) => {
    // Without smoothing each of the 16 x 9 pixels is the centre of its cell.
    context.drawImage(image, 0, 0, 16, 9);
    const pixels = context.getImageData(0, 0, 16, 9).data;
    const top = row(pixels, 0) * 65536 + row(pixels, 1);
    const bottom = row(pixels, 7) * 65536 + row(pixels, 8);
    return top === (0xffffffff - bottom) ? top : null;
  };
}

/** The same, after `reading`: every drawn frame is noted in `window.drawn`. */
export function watch({ readPattern, limit }) {
  window.drawn = [];
  window.torn = 0;
  const onframe = ({ seq, t, flags, latency, server, transit, decode }) => {
    const frame = {
      seq, t: +t.toFixed(3), repeat: !!(flags & 2), backlog: !!(flags & 8),
      // From capture to drawn, and of that: to sent, to received, to decoded.
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
