// Draws the desktop's cursor: as this browser's cursor while the viewer controls the desktop, else as an image over the
// picture. Moves of the own pointer are then as fast as the browser's. server/viewer_cursor.rs sends the messages.

const MAX_CSS = 128;   // browsers ignore larger cursors

export class Cursor {
  /** `screen`: the canvas; `image`: an <img> over it; `controls()`: true if this viewer's pointer is the desktop's. */
  constructor(screen, image, controls) {
    this.screen = screen;
    this.image = image;
    this.controls = controls;
    this.reset();
  }

  /** Forgets the cursor: the connection is lost. The picture has it unless the server says otherwise. */
  reset() {
    this.shape = { kind: "in_picture" };
    this.position = null;
    this.paint();
  }

  /** Applies a message of type `cursor`. */
  update({ position, shape }) {
    this.position = position;
    if (shape) this.shape = shape.kind === "image" ? { ...shape, url: `data:image/png;base64,${shape.png}` } : shape;
    this.paint();
  }

  /** CSS pixels per pixel of the desktop. */
  get scale() { return this.screen.clientWidth / this.screen.width || 1; }

  /** Value of the CSS property `cursor`; empty for the one of the style sheet. */
  get css() {
    const { kind, url, width, height, hotspot } = this.shape;
    if (kind === "in_picture") return "";
    if (kind !== "image") return kind === "hidden" ? "none" : "default";
    const scale = Math.min(this.scale, MAX_CSS / width, MAX_CSS / height);
    const [x, y] = hotspot.map((at) => Math.floor(at * scale));
    return `image-set(url("${url}") ${1 / scale}x) ${x} ${y}, default`;
  }

  /** Shows the cursor. To be called as well when control, the pointer lock or the size of the picture changes. */
  paint() {
    const { screen, image, shape, position } = this;
    const own = this.controls();
    const css = own ? this.css : "";
    if (screen.style.cursor !== css) screen.style.cursor = css;
    const drawn = !own && shape.kind === "image" && position !== null;
    image.hidden = !drawn;
    if (!drawn) return;
    if (image.src !== shape.url) image.src = shape.url;
    const { scale } = this, { left, top, width, height } = screen.getBoundingClientRect();
    image.style.width = `${shape.width * scale}px`;
    image.style.transform = `translate(${left + position[0] * width - shape.hotspot[0] * scale}px, ${top + position[1] * height - shape.hotspot[1] * scale}px)`;
  }
}
