# What lme4 finds in a table of sleepstudy's form, for tests/test_mixed_models_page.py.
#
#     Rscript tests/mixed_models_page.R sleepstudy.csv shuffled.csv
#
# Prints one line a figure: its name and its numbers. The second table has people's labels shuffled,
# so that there is nothing between them. The exit status is 3 without lme4.

if (!requireNamespace("lme4", quietly = TRUE)) quit(status = 3)
paths <- commandArgs(trailingOnly = TRUE)
data <- read.csv(paths[1])
precise <- lme4::lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-10, maxfun = 1e5))
say <- function(name, values) {
  cat(name, format(as.numeric(values), digits = 15, trim = TRUE, scientific = TRUE), "\n")
}

fit <- function(formula) lme4::lmer(formula, data = data, control = precise)
forms <- list(
  correlated = Reaction ~ Days + (1 + Days | Subject),
  intercept = Reaction ~ Days + (1 | Subject),
  independent = Reaction ~ Days + (1 + Days || Subject)
)
for (form in names(forms)) {
  model <- fit(forms[[form]])
  say(paste0(form, ".criterion"), -2 * logLik(model))
  say(paste0(form, ".fixed"), lme4::fixef(model))
  say(paste0(form, ".residual"), sigma(model)^2)
  covariance <- matrix(0, 2, 2)
  for (block in lme4::VarCorr(model)) {
    at <- match(colnames(block), c("(Intercept)", "Days"))
    covariance[at, at] <- block
  }
  say(paste0(form, ".covariance"), covariance)
  effects <- lme4::ranef(model, condVar = TRUE)$Subject
  say(paste0(form, ".effects"), as.matrix(effects)) # column by column
  say(paste0(form, ".errors"), as.data.frame(lme4::ranef(model, condVar = TRUE))$condsd)
  known <- data.frame(Days = 0:9, Subject = data$Subject[1])
  unknown <- data.frame(Days = 0:9, Subject = -1)
  say(paste0(form, ".known"), predict(model, known))
  say(paste0(form, ".population"), predict(model, known, re.form = NA))
  say(paste0(form, ".unknown"), predict(model, unknown, allow.new.levels = TRUE))
}

# Without any feature.
model <- fit(Reaction ~ 1 + (1 | Subject))
say("alone.criterion", -2 * logLik(model))
say("alone.fixed", lme4::fixef(model))
effects <- as.data.frame(lme4::ranef(model, condVar = TRUE))
say("alone.effects", effects$condval)
say("alone.errors", effects$condsd)

model <- fit(forms$correlated)
conditional <- attr(lme4::ranef(model, condVar = TRUE)$Subject, "postVar")[, , 1]
design <- cbind(1, 0:9)
say("deviation", sqrt(sigma(model)^2 + rowSums((design %*% conditional) * design)))

# A logistic mixed model of slow reactions, by Laplace's approximation.
slow <- lme4::glmer((Reaction > 300) ~ Days + (1 | Subject), data = data, family = binomial)
say("slow.fixed", lme4::fixef(slow))
say("slow.variance", lme4::VarCorr(slow)$Subject)
say("slow.effects", lme4::ranef(slow)$Subject[, 1])
say("slow.errors", as.data.frame(lme4::ranef(slow, condVar = TRUE))$condsd)

data$weight <- 2
model <- lme4::lmer(forms$correlated, data = data, control = precise, weights = weight)
say("weighted", sigma(model)^2)
data <- read.csv(paths[2])
model <- suppressMessages(fit(forms$correlated))
say("singular", lme4::isSingular(model))
say("singular.criterion", -2 * logLik(model))
