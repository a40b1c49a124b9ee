using System;

namespace Shop.Core
{
    /// <summary>
    /// A cart, see <see cref="Item"/>.
    /// </summary>
    [Serializable]
    public class Cart : ICart
    {
        public int Count { get; set; }

        public Cart() { }

        /// <summary>Adds.</summary>
        public void Add(int x)
        {
            int Twice(int y) => 2 * y;
            Count += Twice(x);
        }

        public static Cart operator +(Cart a, Cart b) => a;

        ~Cart() { }
    }

    public struct Item { }

    public record Price(decimal Value);

    public interface ICart { void Add(int x); }
}
