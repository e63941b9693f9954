# Reference figures by lme4: five public data sets, random intercept and slopes, by REML.
#
#     Rscript benchmarks/lme4_reference.R > benchmarks/lme4_reference.json
#
# Needs R with lme4, nlme (Oxboys, Orthodont, Milk), mlmRev (Exam) and jsonlite; the exit status is 3
# without them. lme4_reference.py runs this script where it finds Rscript, and compares. Random effects
# are those of all that varies within groups; the other features have fixed effects only. Levels of
# factors are sorted, so that the first one, which has no column, does not depend on the package.

needed <- c("lme4", "nlme", "mlmRev", "jsonlite")
missing <- needed[!vapply(needed, requireNamespace, logical(1), quietly = TRUE)]
if (length(missing)) {
  message("These packages are not installed: ", paste(missing, collapse = ", "))
  quit(status = 3)
}

models <- list(
  sleepstudy = list(Reaction ~ Days + (Days | Subject), lme4::sleepstudy),
  Oxboys = list(height ~ age + (age | Subject), nlme::Oxboys),
  Orthodont = list(distance ~ age + Sex + (age | Subject), nlme::Orthodont),
  Milk = list(protein ~ Time + Diet + (Time | Cow), nlme::Milk),
  Exam = list(
    normexam ~ standLRT + schavg + sex + schgend + (standLRT + sex | school), mlmRev::Exam
  )
)

sorted_levels <- function(column) {
  if (!is.factor(column)) return(column)
  column <- as.character(column)
  factor(column, levels = sort(unique(column), method = "radix"))
}

figures <- function(model) {
  frame <- as.data.frame(lapply(as.list(model[[2]]), sorted_levels))
  fit <- lme4::lmer(
    model[[1]], data = frame, REML = TRUE,
    control = lme4::lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-10, maxfun = 1e5))
  )
  covariance <- lme4::VarCorr(fit)[[1]]
  effects <- lme4::ranef(fit)[[1]]
  groups <- unique(as.character(lme4::getME(fit, "flist")[[1]]))[1:3]
  list(
    fixed_effects = as.list(lme4::fixef(fit)),
    random_names = as.list(colnames(covariance)),
    covariance = matrix(as.numeric(covariance), nrow(covariance)),
    residual_variance = sigma(fit)^2,
    log_likelihood = as.numeric(logLik(fit)),
    singular = lme4::isSingular(fit),
    random_effects = unname(as.matrix(effects[groups, , drop = FALSE])) # groups as they appear
  )
}

versions <- lapply(setNames(needed, needed), function(name) as.character(packageVersion(name)))
made_by <- c(list(R = R.version.string), versions)
cat(jsonlite::toJSON(
  c(list(made_by = made_by), lapply(models, figures)),
  digits = 12, auto_unbox = TRUE, pretty = TRUE
), "\n")
