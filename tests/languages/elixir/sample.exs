defmodule Shop.Cart do
  use GenServer
  alias Shop.Line

  @moduledoc """
  Carts of a shop.

      iex> Shop.Cart.new()
  """

  @type t :: %__MODULE__{items: list}
  @rate 0.2
  defstruct items: []

  @doc """
  Makes a cart.

  ## Examples

      defmodule NotCode do
        def not_code, do: 1
      end
  """
  @doc since: "1.0"
  @spec new(list) :: t
  def new(items \\ [])
  def new([]), do: %__MODULE__{}

  # Takes the items.
  def new(items) when is_list(items) do
    %__MODULE__{items: items}
  end

  @doc "Starts it."

  @impl true

  def init(_), do: {:ok, nil}

  @doc "Sums \"all\"."
  defp total(cart), do: Enum.reduce(cart.items, 0, fn item, sum -> sum + item.price end)

  defmacro checked(expression) do
    quote do: unquote(expression)
  end

  defguard is_priced(item) when item.price > 0
  defdelegate size(items), to: Enum, as: :count
  def left + right, do: merge(left, right)
  def left ~> right when is_list(right) do
    right
  end

  def unquote(:name)(value), do: value

  defmodule Empty do
    @moduledoc false
    def items, do: []
  end

  @doc "Handles it."
  @callback handle(term) :: :ok
  @callback stop(reason) :: :ok when reason: term
end

defprotocol Sized do
  @moduledoc "Things with a size."

  @doc "The size."
  @spec size(t) :: integer
  def size(value)
end

defimpl Sized, for: Shop.Cart do
  def size(cart), do: length(cart.items)
end

defmodule Shop.CartTest do
  use ExUnit.Case, async: true

  setup %{cart: cart} do
    {:ok, cart: cart}
  end

  describe "total" do
    @tag :slow
    test "adds", %{cart: cart} do
      assert_raise ArgumentError, "no", fn -> total(cart) end
      if cart, do: 1
    end

    test "is written later"
  end

  for name <- [:a, :b] do
    test "knows #{name}" do
      assert unquote(name)
    end
  end
end

defmodule Shop.Router do
  use Plug.Router

  get "/orders/:id" do
    send_resp(conn, 200, id)
  end

  object :order do
    field :id, :id
  end

  scope "/api", Shop do
    pipe_through :api
  end
end
