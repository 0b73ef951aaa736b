// What a dashboard of nestbed may hold, from the types that Grafana's makers publish on npm: enumerations by their values,
// the options of each kind of panel, and queries of Prometheus alone.
import type { Dashboard, FieldConfigSource, Panel } from '@grafana/grafana-foundation-sdk/dashboard';
import type { Dataquery } from '@grafana/grafana-foundation-sdk/prometheus';
import type { Options as StatOptions } from '@grafana/grafana-foundation-sdk/stat';
import type { FieldConfig as StateField, Options as StateOptions } from '@grafana/grafana-foundation-sdk/statetimeline';
import type { FieldConfig as LinesField, Options as LinesOptions } from '@grafana/grafana-foundation-sdk/timeseries';

type Plain<T> = 0 extends 1 & T ? any
  : T extends Function ? never
  : T extends string ? `${T}`
  : T extends number ? (number extends T ? number : `${T}` extends `${infer N extends number}` ? N : never)
  : T extends readonly (infer U)[] ? Plain<U>[]
  : T extends object ? { [K in keyof T]: Plain<T[K]> }
  : T;

type Fields<Custom> = Omit<FieldConfigSource, 'defaults'> & { defaults: Omit<FieldConfigSource['defaults'], 'custom'> & { custom?: Partial<Custom> } };
type Of<Kind, Options, Custom> = Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'targets'> & {
  type: Kind; options: Options; fieldConfig: Fields<Custom>; targets: Omit<Dataquery, '_implementsDataqueryVariant'>[];
};
export type Board = Plain<Omit<Dashboard, 'panels'> & {
  panels: (Of<'timeseries', LinesOptions, LinesField> | Of<'stat', StatOptions, never> | Of<'state-timeline', StateOptions, StateField>)[];
}>;
