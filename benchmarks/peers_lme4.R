# A linear mixed model by lme4, for peers.py.
#
#     Rscript benchmarks/peers_lme4.R rows.csv
#
# The table has columns x, y and g. Prints the CPU seconds of R's start and of loading lme4, those of the
# fit, the three covariance parameters (intercept, both, slope) and the residual variance.

spent <- function() sum(proc.time()[1:2])
suppressMessages(library(lme4))
imports <- spent()
rows <- read.csv(commandArgs(trailingOnly = TRUE)[1])
fit_of <- function(rows) suppressMessages(suppressWarnings(lmer(y ~ x + (1 + x | g), data = rows)))
few <- fit_of(rows[rows$g < 30, ]) # what R compiles on first use is not of the fit
start <- spent()
fit <- fit_of(rows)
seconds <- spent() - start
covariance <- VarCorr(fit)[[1]]
cat(format(c(imports, seconds, covariance[c(1, 2, 4)], sigma(fit)^2), digits = 17), "\n")
