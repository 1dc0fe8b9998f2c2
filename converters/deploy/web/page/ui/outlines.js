/** Outlines of the shapes that a click draws. */

const SHAPES = {
  circle: (context, x, y, radius) => context.arc(x, y, radius, 0, 2 * Math.PI),
  square: (context, x, y, radius) => context.rect(x - radius, y - radius, 2 * radius, 2 * radius),
  triangle: (context, x, y, radius) =>
    polygon(context, [
      [x, y - radius],
      [x + radius, y + radius],
      [x - radius, y + radius],
    ]),
  star: (context, x, y, radius) =>
    polygon(
      context,
      Array.from({ length: 10 }, (_, corner) => {
        const angle = (corner * Math.PI) / 5 - Math.PI / 2;
        const reach = corner % 2 ? radius * 0.42 : radius;
        return [x + reach * Math.cos(angle), y + reach * Math.sin(angle)];
      }),
    ),
  heart: (context, x, y, radius) => {
    context.moveTo(x, y + radius);
    context.bezierCurveTo(x - radius * 2, y - radius * 0.2, x - radius * 0.9, y - radius * 1.5, x, y - radius * 0.4);
    context.bezierCurveTo(x + radius * 0.9, y - radius * 1.5, x + radius * 2, y - radius * 0.2, x, y + radius);
  },
};

/**
 * Adds a closed outline to the path.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {string} shape
 * @param {number} x the middle
 * @param {number} y the middle
 * @param {number} size from side to side, in pixels
 */
export function tracePath(context, shape, x, y, size) {
  SHAPES[shape](context, x, y, size / 2);
  context.closePath();
}

function polygon(context, corners) {
  corners.forEach(([x, y], index) => (index ? context.lineTo(x, y) : context.moveTo(x, y)));
}
