#!/usr/bin/env lua
--- Carts of a shop.
-- @module cart
local Cart = {}
Cart.__index = Cart

--- Makes a cart.
-- @param items a list
function Cart.new(items)
  return setmetatable({ items = items or {} }, Cart)
end

--[[
Adds an item.
  Twice, if told.
]]
function Cart:add(item, twice)
  local function once(self)
    table.insert(self.items, item)
  end
  once(self)
  if twice then once(self) end
end

function shop.cart.lines:count() return #self end

---@return number
Cart.total = function(self)
  return fold(self.items, function(sum, item) return sum + item.price end)
end

local rate = function() return 0.2 end
local tax <const> = function(price) return price * rate() end
Cart["net price"] = function(self) end
local a, b = function() end, 2

-- ------
-- Commands.
-- ------
Cart.commands = {
  --- Shows it.
  show = function(self) print(self) end,
  ["clear-all"] = function(self) self.items = {} end,
  nested = {
    deep = function() end,
  },
  function() end,
  [1] = function() end,
}

local Line = setmetatable({
  price = function() return 1 end,
}, { __call = function() end })
Line.round = Line.round or function(x) return math.floor(x) end

describe("cart", function()
  before_each(function() end)

  it("adds", function()
    assert.equal(1, 1)
  end)
  pending('removes')
end)

app:get("/orders/:id", function(request)
  return ("x"):gsub("x", function() return "y" end)
end)

vim.api.nvim_create_user_command("Checkout", function(options)
  Cart.checkout(options)
end, { nargs = 1 })

return {
  setup = function(options)
    options = options // 2
  end,
  opts = { on_attach = function() end },
}
