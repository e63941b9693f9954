# The restricted likelihood of many small mixed models by lme4, for tests/test_reml.py.
#
#     Rscript tests/reml.R problems.csv
#
# The table has columns problem, effects (how many random effects: the intercept, x1, x2), y, x1, x2
# and task. Prints a line for each problem: its number, -2 log restricted likelihood, and 1 if
# the covariance is singular. The exit status is 3 without lme4.

if (!requireNamespace("lme4", quietly = TRUE)) quit(status = 3)
table <- read.csv(commandArgs(trailingOnly = TRUE)[1])
control <- lme4::lmerControl(
  optimizer = "bobyqa", optCtrl = list(rhoend = 1e-9, maxfun = 1e5), calc.derivs = FALSE,
  check.nobs.vs.nRE = "ignore", check.nobs.vs.rankZ = "ignore", check.nobs.vs.nlev = "ignore",
  check.scaleX = "ignore", check.conv.singular = "ignore"
)
forms <- list(
  y ~ x1 + x2 + (1 | task), y ~ x1 + x2 + (1 + x1 | task), y ~ x1 + x2 + (1 + x1 + x2 | task)
)
for (number in unique(table$problem)) {
  rows <- table[table$problem == number, ]
  model <- suppressWarnings(lme4::lmer(forms[[rows$effects[1]]], data = rows, control = control))
  criterion <- format(as.numeric(-2 * logLik(model)), digits = 15, scientific = TRUE)
  cat(number, criterion, as.numeric(lme4::isSingular(model, tol = 1e-3)), "\n")
}
