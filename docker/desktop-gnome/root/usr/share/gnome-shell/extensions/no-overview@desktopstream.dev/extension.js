import * as Main from 'resource:///org/gnome/shell/ui/main.js';
import {Extension} from 'resource:///org/gnome/shell/extensions/extension.js';

// The shell opens the overview while it starts if its session mode has one. So ours has none until it has started.
export default class NoOverviewAtStart extends Extension {
    enable() {
        if (!Main.layoutManager._startingUp)
            return;
        const had = Main.sessionMode.hasOverview;
        Main.sessionMode.hasOverview = false;
        Main.layoutManager.connectObject('startup-complete', () => {
            Main.sessionMode.hasOverview = had;
        }, this);
    }

    disable() {
        Main.layoutManager.disconnectObject(this);
    }
}
