namespace Shop.Core;

using System;

/// <summary>An order.</summary>
public abstract class Order<T> : IOrder where T : new()
{
    public int Count { get; set; }

    public required string Name
    {
        get;
        init;
    } = "";

    /// <summary>The sum.</summary>
    [Obsolete]
    public int Total
    {
        get { return 1; }
        private set => total = value;
    }

    public int Tax => Total * Rate;
    int IOrder.Rate { get { return 2; } }
    public int this[int i] { get { return i; } }
    public int this[string name] => 1;

    public event EventHandler Changed;
    public event EventHandler Closed { add { Changed += value; } remove { Changed -= value; } }

    private readonly Func<int, int> twice = x => { return 2 * x; };
    private readonly Func<int, int> same = x => x;

    static Order() { }
    protected Order(int count) : base(count) { }

    public static implicit operator int(Order<T> order) => order.Total;
    public static explicit operator Order<T>(int total) { return null; }
    public static bool operator !=(Order<T> a, Order<T> b) => false;

    void IOrder.Close() { }

    /// <summary>
    /// Ships <paramref name="x"/>.
    /// </summary>
    public abstract void Ship(T x);
    public static extern int Native();
    partial void OnShip();

#if NET8_0
    public async Task<int> ShipAsync<U>(U x) where U : class
    {
        Action<int> log = delegate (int y) { };
        return await Inner();
        async Task<int> Inner() => 1;
    }
#else
    public int ShipNow() => 1;
#endif

    public delegate int Rounding(int value);
    enum State { Open, Closed }
    record Line(string Sku, int Count);
    record struct Point(int X) { public int Twice() => 2 * X; }
}

public interface IOrder
{
    int Rate { get; }
    void Close();
    int Half() => Rate / 2;
}

public static class Extensions
{
    public static int Double(this int x) => 2 * x;
}
