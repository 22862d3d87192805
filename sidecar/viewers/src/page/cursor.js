// Draws the desktop's cursor: as this browser's cursor while the viewer controls the desktop, and as an image over the picture
// while another viewer moves it. Moves of the own pointer are then as fast as the browser's. server/viewer_cursor.rs sends the
// messages.

const MAX_CSS = 128;     // browsers ignore larger cursors
const NEAR = 0.03;       // distance from the own pointer, in parts of the picture, up to which the desktop's cursor is its own
/** Image of a cursor that is not known. */
const ARROW = {
  kind: "image", width: 12, height: 19, hotspot: [0, 0],
  url: `data:image/svg+xml,${encodeURIComponent("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 12 19' width='12' height='19'><path d='M.7 1v15l3.5-3.3 2.3 5.4 2.3-1-2.3-5.3h4.8z' fill='#000' stroke='#fff'/></svg>")}`,
};

export class Cursor {
  /**
   * `screen`: the canvas; `image`: an <img> over it; `own.controls()`: true if this viewer's pointer moves the desktop's;
   * `own.owns()`: true if no other one does; `own.position()`: its last position in the picture, if any.
   */
  constructor(screen, image, own) {
    this.screen = screen;
    this.image = image;
    this.own = own;
    this.applied = null;
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

  /** Values of the CSS property `cursor`, the best one first; an empty one for that of the style sheet. */
  get css() {
    const { kind, url, width, height, hotspot } = this.shape;
    if (kind === "in_picture") return [""];
    if (kind !== "image") return [kind === "hidden" ? "none" : "default"];
    const scale = Math.min(this.scale, MAX_CSS / width, MAX_CSS / height);
    const [x, y] = hotspot.map((at) => Math.floor(at * scale));
    return [`image-set(url("${url}") ${1 / scale}x) ${x} ${y}, default`, `url("${url}") ${hotspot.join(" ")}, default`, "default"];
  }

  /** Sets the browser's cursor to the first value that the browser knows. */
  apply(values) {
    if (this.applied === values[0]) return;
    this.applied = values[0];
    const { style } = this.screen;
    style.cursor = "";
    for (const value of values) if (!style.cursor) style.cursor = value;
  }

  /** True if the desktop's cursor is where the own pointer is, or on its way there. */
  get isOwn() {
    if (!this.own.controls()) return false;
    const at = this.own.position();
    return this.own.owns() || (!!at && Math.hypot(at.x - this.position[0], at.y - this.position[1]) < NEAR);
  }

  /** Shows the cursor. To be called as well when control, the pointer lock or the size of the picture changes. */
  paint() {
    const { screen, image, position } = this;
    this.apply(this.own.controls() ? this.css : [""]);
    const shape = this.shape.kind === "arrow" ? ARROW : this.shape;
    image.hidden = shape.kind !== "image" || position === null || this.isOwn;
    if (image.hidden) return;
    if (image.src !== shape.url) image.src = shape.url;
    const { scale } = this, { left, top, width, height } = screen.getBoundingClientRect();
    image.style.width = `${shape.width * scale}px`;
    image.style.transform = `translate(${left + position[0] * width - shape.hotspot[0] * scale}px, ${top + position[1] * height - shape.hotspot[1] * scale}px)`;
  }
}
