#!/usr/bin/env Rscript
library(R6)

#' Sums prices.
#'
#' @param prices numbers
#' @export
total <- function(prices, scale = c(1, 2),
                  combine = function(x) sum(x)) {
  once = function(price) price
  tryCatch(
    sapply(prices, function(price) once(price)),
    error = function(e) {
      NULL
    }
  )
}

# One statement.
tax <- function(price) price * 0.2
net = function(price)
{
  price - tax(price)
}
double <- \(x) 2 * x
piped <- function(x) x |>
  tax() |>
  double()
long <- function(x) if (x > 0) x else
  -x
`%+%` <- function(a, b) paste(a, b)
"names<-.cart" <- function(x, value) { x }
print.cart <- function(x, ...) cat("a } cart # not a comment\n")
counter <<- function() 1
settings <- list(
  verbose = TRUE,
  log = function(text) {
    message(text)
  }
)

Cart <- R6Class("Cart",
  public = list(
    items = NULL,

    #' @description Makes a cart.
    initialize = function(items = list()) {
      self$items <- items
    },
    add = function(item) invisible(self)
  ),
  private = list(secret = function() 1)
)
Account <- setRefClass("Account", fields = list(), methods = list(
  deposit = function(x) {
    balance <<- balance + x
  }
))

setClass("Shape", representation(name = "character"))
setGeneric("area", function(shape) standardGeneric("area"))
# The area.
setMethod("area", signature(shape = "Shape"), function(shape) {
  0
})
setMethod("show", "Shape", function(object) cat(object@name))
method(area, Square) <- function(x) {
  x@side^2
}

server <- function(input, output) {
  output$plot <- renderPlot({
    plot(1)
  })
  output$download <- function() 1
}

describe("cart", {
  it('adds', {
    expect_equal(1, 1)
  })
})
test_that("totals \"sum\"", {
  local <- function() 1
})

`[[<-.frame` <- function(x, i, value) {
  x
}
`$<-.frame` <- function(x, name, value) {
  x
}
