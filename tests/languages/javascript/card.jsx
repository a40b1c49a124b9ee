import { forwardRef, lazy, memo, useState } from 'react';

/** A card. */
export const Card = memo(function Card({ title }) {
  const [open, setOpen] = useState(false);
  const toggle = () => setOpen((value) => !value);
  const rows = useMemo(() => title.split(' ').map((word) => word.length), [title]);
  return <b onClick={toggle}>{rows.map((row) => <i key={row}>{row}</i>)}</b>;
});

export const Button = forwardRef((props, ref) => {
  return <button ref={ref} {...props} />;
});

const Field = React.memo(
  React.forwardRef((props, ref) => <input ref={ref} />),
);

const Settings = lazy(() => import('./settings'));

export const useStore = create((set) => ({
  items: [],
  // Adds an item.
  add: (item) => set((state) => ({ items: [...state.items, item] })),
  filters: {
    clear() {
      set({ filters: [] });
    },
  },
}));

const words = ['a', 'b'].map((word) => word.length);
const timer = setTimeout(() => words.pop(), 10);

class Page extends React.Component {
  state = {};

  render() {
    return <Card title={words.join(' ')} />;
  }
}

export default connect(selectUser)(function UserPage() {
  return <Page />;
});
