// The desktop follows the size of this window, if it is to and this viewer controls it.

const SETTLE_MS = 150;   // a window that is dragged sends its size when it rests

/** Sends the size of an element in device pixels after it changed. */
export class WindowSize {
  constructor(element, send) {
    this.element = element;
    this.send = send;
    this.follows = this.owns = false;
    this.viewers = 0;
    this.timer = 0;
    this.reset();
    new ResizeObserver(() => this.changed()).observe(element);
    document.addEventListener("visibilitychange", () => this.changed());
    this.watchScale();
  }

  /** Forgets what was sent: the connection is lost. */
  reset() { this.sent = ""; }

  /**
   * Sets whether the desktop follows this window, and whether this viewer alone controls it; `viewers` is their number. The
   * desktop may have got the size of another window before this one owned control, or before another viewer left.
   */
  follow(follows, owns, viewers) {
    if (follows && !this.follows || owns && !this.owns || viewers < this.viewers) this.reset();
    Object.assign(this, { follows, owns, viewers });
    this.changed();
  }

  changed() {
    if (!this.follows || document.hidden) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.submit(), SETTLE_MS);
  }

  submit() {
    const scale = window.devicePixelRatio || 1;
    const [width, height] = [this.element.clientWidth, this.element.clientHeight].map((length) => Math.round(length * scale));
    const text = `${width}x${height}@${scale}`;
    if (!this.follows || document.hidden || text === this.sent || !width || !height) return;
    this.sent = text;
    this.send({ type: "size", width, height, scale });
  }

  /** A window that moves to another screen changes its scale, but perhaps not its size. */
  watchScale() {
    const query = matchMedia(`(resolution: ${window.devicePixelRatio || 1}dppx)`);
    query.addEventListener("change", () => { this.changed(); this.watchScale(); }, { once: true });
  }
}
