"""The meta-objective in 50 digits, by the book, and its minimum: what float64 is compared with."""

from mpmath import matrix, mp, mpf

mp.dps = 80  # so that 50 are left where the condition number is 1e12

__all__ = ["PreciseObjective"]

# The value and the first two derivatives in z, of each loss.
LOSSES = {
    "squared_error": (
        lambda y, z: (z - y) ** 2,
        lambda y, z: 2 * (z - y),
        lambda y, z: mpf(2),
    ),
    "log_cosh": (
        lambda y, z: mp.log(mp.cosh(z - y)),
        lambda y, z: mp.tanh(z - y),
        lambda y, z: mp.sech(z - y) ** 2,
    ),
    "pseudo_huber": (
        lambda y, z: 2 * (mp.sqrt(1 + (z - y) ** 2) - 1),
        lambda y, z: 2 * (z - y) / mp.sqrt(1 + (z - y) ** 2),
        lambda y, z: 2 * (1 + (z - y) ** 2) ** mpf("-1.5"),
    ),
}


class PreciseObjective:
    """``L(theta) = mean_i mean_j l(phi_ij' theta_i, y_ij)``, support = query = all rows.

    Parameters
    ----------
    loss : str
    tasks : list of (X, y)
        Of float64, which are taken for exact.
    inner_lr, n_steps : float, int
        Of gradient steps; or
    strength, metric : float, ndarray of shape (d,)
        of a proximal step with a diagonal metric.
    """

    def __init__(self, loss, tasks, inner_lr=None, n_steps=0, strength=None, metric=None):
        self.value_of, self.slope, self.curvature = LOSSES[loss]
        rows = [(matrix([[*map(mpf, map(float, x)), mpf(1)] for x in X]), y) for X, y in tasks]
        self.tasks = [(Phi, matrix([mpf(float(t)) for t in y])) for Phi, y in rows]
        self.inner_lr, self.n_steps = inner_lr and mpf(float(inner_lr)), n_steps
        self.precision = None
        if strength is not None:
            self.precision = mp.diag([2 * mpf(float(strength)) / mpf(float(m)) for m in metric])
        self.d = self.tasks[0][0].cols

    def _derivatives(self, theta, Phi, y):
        """The sums over rows of the loss's gradient and Hessian in theta."""
        z = Phi * theta
        slopes = matrix([self.slope(a, b) for a, b in zip(y, z, strict=True)])
        curvatures = mp.diag([self.curvature(a, b) for a, b in zip(y, z, strict=True)])
        return Phi.T * slopes, Phi.T * curvatures * Phi

    def adapt(self, theta, i):
        """theta_i, and its derivative in theta."""
        Phi, y = self.tasks[i]
        J, own = mp.eye(self.d), matrix(theta)
        if self.precision is None:
            for _ in range(self.n_steps):
                gradient, hessian = self._derivatives(own, Phi, y)
                step = self.inner_lr / Phi.rows
                own, J = own - step * gradient, (mp.eye(self.d) - step * hessian) * J
            return own, J
        for _ in range(200):
            gradient, hessian = self._derivatives(own, Phi, y)
            gradient += self.precision * (own - matrix(theta))
            step = mp.lu_solve(hessian + self.precision, gradient)
            own -= step
            if mp.norm(Phi * step) < mpf(10) ** -40:
                break
        hessian = self._derivatives(own, Phi, y)[1]
        return own, (hessian + self.precision) ** -1 * self.precision

    def predictions(self, theta, i):
        """Of a task's rows after adapting to them, in floats."""
        return [float(z) for z in self.tasks[i][0] * self.adapt(theta, i)[0]]

    def value(self, theta):
        """L."""
        total = mpf(0)
        for i, (Phi, y) in enumerate(self.tasks):
            z = Phi * self.adapt(theta, i)[0]
            total += sum(self.value_of(a, b) for a, b in zip(y, z, strict=True)) / Phi.rows
        return total / len(self.tasks)

    def gradient(self, theta):
        """Of L."""
        total = matrix(self.d, 1)
        for i, (Phi, y) in enumerate(self.tasks):
            own, J = self.adapt(theta, i)
            total += J.T * self._derivatives(own, Phi, y)[0] / Phi.rows
        return total / len(self.tasks)

    def minimum(self, theta):
        """The value at the stationary point that Newton's method reaches from theta."""
        theta, value = matrix(theta), self.value(theta)
        for _ in range(50):
            gradient, hessian = self.gradient(theta), matrix(self.d)
            for j in range(self.d):
                move = matrix(self.d, 1)
                move[j] = mpf(10) ** -25 * (1 + abs(theta[j]))
                hessian[:, j] = (self.gradient(theta + move) - gradient) / move[j]
            step = mp.lu_solve((hessian + hessian.T) / 2, gradient)
            theta -= step
            before, value = value, self.value(theta)
            if abs(before - value) <= mpf(10) ** -35 * abs(value):
                return value
        raise ArithmeticError("Newton's method does not converge: take another start")
